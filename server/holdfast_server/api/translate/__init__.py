"""Domain values to protobuf answers: pure functions, nothing is decided here."""
