from tidemill.web.health_page import health as health
from tidemill.web.router import documents as documents

__all__ = ["documents", "health"]
