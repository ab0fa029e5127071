"""Plans of steps on chips that are not at hand."""
