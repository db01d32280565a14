"""Files: what is known of them and who may see them. Their bytes are the gateway's affair."""
