"""What the environment says: settings, accounts, secrets, certificates, and the log."""
