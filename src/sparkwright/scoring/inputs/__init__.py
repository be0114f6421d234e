"""Where photos come from: bytes, paths, URLs, images; fetched ahead of the network, within limits."""
