"""What serving.toml should wish of the engine on this machine: candidates, real servers, the choice among them."""
