"""What `penjing demo` runs on."""
