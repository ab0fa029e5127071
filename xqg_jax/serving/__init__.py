"""The search server: live search, application, page."""
