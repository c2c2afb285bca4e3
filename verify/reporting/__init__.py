"""Forms of a report for machines and people: JSON schema, JUnit, Markdown, SARIF, HTML, pictures."""

from .files import schema as schema
from .files import write_reports as write_reports
from .html import to_html as to_html
from .junit import to_junit as to_junit
from .markdown import kill_matrix_markdown as kill_matrix_markdown
from .markdown import to_markdown as to_markdown
from .sarif import to_sarif as to_sarif
