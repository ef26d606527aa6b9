"""The gRPC surface: turns protobuf into domain values and back, and knows who calls.

It decides nothing: the decision is the submitter's. One request goes through `dispatch` (who calls,
may they, are the bytes a message), `validate` (is its form right), a service (what to ask), and
`translate` (how to say the answer).
"""
