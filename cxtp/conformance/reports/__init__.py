"""A report as text, JSON, JUnit's XML, or one HTML file."""

from __future__ import annotations

from .as_html import html_report
from .as_json import json_report
from .as_junit import junit_report
from .as_text import text_report

__all__ = ["html_report", "json_report", "junit_report", "text_report"]
