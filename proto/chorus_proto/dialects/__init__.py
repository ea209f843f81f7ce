"""What callers' APIs look like: requests in, answers out."""
