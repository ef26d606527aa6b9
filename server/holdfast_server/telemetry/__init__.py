"""What Holdfast says about itself: metrics, traces and log lines.

Labels and attributes come from closed lists (`names`); nothing is ever labelled by account, tenant
or any other text of a caller. Everything here is built after a fork, once per process.
"""
