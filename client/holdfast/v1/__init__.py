"""Messages and stubs of the API, generated from the protos beside them."""
