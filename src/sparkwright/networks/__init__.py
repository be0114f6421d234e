"""Networks: the catalogue, files, summary, cutting, new heads, freezing, preprocessing."""
