"""What this server takes and gives, as one OpenAPI document."""
