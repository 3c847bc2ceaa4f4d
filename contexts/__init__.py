"""What cxtp moves: feature contexts, the keys they stand for, and sessions restored from them."""
