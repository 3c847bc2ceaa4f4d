"""The octets of contexts, declared with Construct as docs/context-formats.md draws them."""
