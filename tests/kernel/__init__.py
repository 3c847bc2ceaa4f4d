"""Tests in a real Linux kernel that has ESP and SCTP, whatever the machine's own kernel has (README.md here)."""
