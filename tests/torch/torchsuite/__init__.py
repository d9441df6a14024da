"""What the verification suite is made of; it runs inside an environment and knows nothing of the tool."""
