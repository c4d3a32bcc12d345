"""Narratives: what XHTML may hold, and texts that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.conformance.kinds import Kind
from tests.conformance.nodes import Example, Json, Site, site

OPEN = '<div xmlns="http://www.w3.org/1999/xhtml">'

BAD = {
    "script": OPEN + "x<script>alert(1)</script></div>",
    "handler": OPEN + '<p onclick="x()">x</p></div>',
    "iframe": OPEN + '<iframe src="http://x.example">x</iframe></div>',
    "object": OPEN + '<object data="x">x</object></div>',
    "form": OPEN + '<form action="http://x.example">x</form></div>',
    "input": OPEN + 'x<input name="a"/></div>',
    "button": OPEN + "<button>x</button></div>",
    "link": OPEN + '<link rel="stylesheet" href="http://x.example/a.css"/>x</div>',
    "style element": OPEN + "<style>p {}</style>x</div>",
    "head": OPEN + "<head><title>x</title></head>x</div>",
    "body": OPEN + "<body>x</body></div>",
    "base": OPEN + '<base href="http://x.example"/>x</div>',
    "meta": OPEN + '<meta name="a"/>x</div>',
    "unknown element": OPEN + "<blinker>x</blinker></div>",
    "element in upper case": OPEN + "<P>x</P></div>",
    "unknown attribute": OPEN + '<p unbekannt="x">x</p></div>',
    "data attribute": OPEN + '<p data-x="x">x</p></div>',
    "foreign namespace": OPEN + '<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>x</div>',
    "javascript address": OPEN + '<a href="javascript:alert(1)">x</a></div>',
    "empty": OPEN + "</div>",
    "empty, self-closing": '<div xmlns="http://www.w3.org/1999/xhtml"/>',
    "spaces": OPEN + "  \n </div>",
    "empty paragraph": OPEN + "<p> </p></div>",
    "no namespace": "<div>x</div>",
    "other namespace": '<div xmlns="http://x.example">x</div>',
    "not closed": OPEN + "<p>x</div>",
    "not a div": '<p xmlns="http://www.w3.org/1999/xhtml">x</p>',
    "two roots": OPEN + "x</div>" + OPEN + "y</div>",
    "plain text": "x",
    "text after": OPEN + "x</div>y",
    "doctype": "<!DOCTYPE div>" + OPEN + "x</div>",
    "entity": '<!DOCTYPE div [<!ENTITY a "x">]>' + OPEN + "&a;</div>",
    "ampersand": OPEN + "a & b</div>",
    "attribute without quotes": OPEN + "<p class=a>x</p></div>",
    "attribute twice": OPEN + '<p class="a" class="b">x</p></div>',
    "control character": OPEN + "a\u0001b</div>",
    "unknown entity": OPEN + "&unbekannt;</div>",
    "image that is not contained": OPEN + '<img src="#nowhere" alt="x"/></div>',
    "void element not closed": OPEN + "a<br>b</div>",
    "nested in text": OPEN + "a<b>c<i>d</b>e</i></div>",
}
GOOD = {
    "table": OPEN + '<table border="1"><tr><td colspan="2">x</td></tr></table></div>',
    "list": OPEN + "<ul><li>x</li></ul><ol><li>y</li></ol><dl><dt>a</dt><dd>b</dd></dl></div>",
    "headings": OPEN + "<h1>x</h1><h6>y</h6><hr/></div>",
    "formats": OPEN + "<b>x</b><i>y</i><em>z</em><strong>s</strong>"
    "<sup>1</sup><sub>2</sub><tt>t</tt><code>c</code></div>",
    "link": OPEN + '<a href="http://x.example/a?b=c&amp;d=e" title="x">x</a></div>',
    "anchor": OPEN + '<a name="a">x</a><a href="#a">y</a></div>',
    "mail": OPEN + '<a href="mailto:x@y.example">x</a></div>',
    "image": OPEN + '<img src="http://x.example/a.png" alt="x"/></div>',
    "image alone": OPEN + '<img src="http://x.example/a.png" alt="x"/></div>',
    "style": OPEN + '<p style="color: red" class="a" id="b" lang="en">x</p></div>',
    "comment": OPEN + "<!-- a -->x</div>",
    "cdata": OPEN + "<![CDATA[x]]></div>",
    "processing instruction": OPEN + "<?a b?>x</div>",
    "numeric entity": OPEN + "&#160;x&#xe4;</div>",
    "entity of XML": OPEN + "&lt;&amp;&gt;&quot;&apos;</div>",
    "entity of HTML": OPEN + "a&nbsp;b&auml;</div>",
    "prefix": '<h:div xmlns:h="http://www.w3.org/1999/xhtml"><h:p>x</h:p></h:div>',
    "xml:lang": '<div xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">x</div>',
    "Unicode": OPEN + "äж中𝄞\u202eb</div>",
    "spaces before": "  " + OPEN + "x</div>",
    "span and br": OPEN + "<span>a</span><br/>b<pre> c </pre><blockquote>d</blockquote></div>",
    "table, whole": OPEN + "<table><caption>c</caption><colgroup><col/></colgroup><thead><tr><th>x</th></tr></thead>"
    "<tfoot><tr><td>y</td></tr></tfoot><tbody><tr><td>z</td></tr></tbody></table></div>",
    "data image": OPEN + '<img src="data:image/png;base64,YQ==" alt="x"/></div>',
    "ins and del": OPEN + "<ins>x</ins><del>y</del></div>",
    "q, cite, dfn": OPEN + "<q>x</q><cite>y</cite><dfn>z</dfn>"
    "<abbr title='a'>b</abbr><kbd>k</kbd><samp>s</samp><var>v</var></div>",
    "figure": OPEN + "<figure>x</figure></div>",
    "section": OPEN + "<section>x</section></div>",
    "font": OPEN + '<font color="red">x</font></div>',
    "u, s, center": OPEN + "<u>x</u></div>",
}  # fmt: skip


def replaced(change: Callable[[Json], None]) -> Callable[[Example], Iterator[Site]]:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if node.type == "Narrative":
                group = "text" if len(node.keys) == 1 else "section" if "section" in node.keys else "contained"
                yield site(node, group, change)

    return sites


def with_div(div: str) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target["div"] = div

    return edit


def without(name: str) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        del target[name]

    return edit


KINDS = [
    *(Kind("narrative", name, 8, replaced(with_div(div))) for name, div in BAD.items()),
    Kind("narrative", "no div", 20, replaced(without("div"))),
    Kind("narrative", "no status", 20, replaced(without("status"))),
    *(Kind("harmless: narrative", name, 6, replaced(with_div(div)), valid=None) for name, div in GOOD.items()),
]
