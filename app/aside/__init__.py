"""Long questions about whole sets, answered beside the authority by a confined child."""
