"""Order: what happens when, what is waited for, and who is asked. A file a lifecycle."""
