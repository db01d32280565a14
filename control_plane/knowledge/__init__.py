"""Knowledge bases, the manifest of their documents, and the jobs that ingest them."""
