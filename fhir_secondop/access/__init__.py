"""Pure decisions about who may do and see what."""
