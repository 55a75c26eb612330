"""The command line of apiha. Nothing else imports this package."""
