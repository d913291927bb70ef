"""What the page asks and hears: routes, messages and text on nodes."""
