"""What the verification suite is made of; it runs inside an environment and knows nothing of the tool."""

#: The version of the torch-verify package, which is this suite.
__version__ = "0.1.0"
