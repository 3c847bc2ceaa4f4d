"""Independent decoders of CXTP, and the one form in which what they say is compared."""
