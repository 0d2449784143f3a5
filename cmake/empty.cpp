// Keeps a layer buildable while it has no sources.
