"""The gateway's description of itself: an OpenAPI 3.1 document made from what the code checks. See docs/api.md."""
