"""What a bundle is: contract, tensors, files and their checks, written once for exporter and runner."""
