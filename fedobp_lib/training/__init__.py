"""Local training and testing of clients.

`tasks` says what is optimized and `trainer` is the interface that methods see; `loop` and `batched`
compute, `backends` chooses between them.
"""
