"""What samples: in this process (hf, vllm), or behind a server (client, server)."""
