"""What somebody may send in names, notes and reasons: for a browser, a terminal, and Markdown.

The browser's call `ran`, which the test counts.
"""

BROWSER = (
    "<img src=x onerror=ran()>",
    "<svg onload=ran()>",
    '"><script>ran()</script>',
    "'><img src=x onerror=ran()>",
    "</script><script>ran()</script>",
    "javascript:ran()",
    '" onmouseover="ran()" x="',
    "' onclick='ran()' autofocus onfocus='ran()' '",
    '<a href="javascript:ran()">click</a>',
    '<iframe srcdoc="<script>parent.ran()</script>"></iframe>',
    "<details open ontoggle=ran()>",
    "<body onload=ran()><style>@import 'x'</style>",
    '<!--<img src="--><img src=x onerror=ran()//">',
    "&lt;img src=x onerror=ran()&gt;",
    "\\u003cimg src=x onerror=ran()\\u003e",
    "{{constructor.constructor('ran()')()}}",
    "${ran()}",
    "<math><mtext><table><mglyph><style><img src=x onerror=ran()>",
    "<input onfocus=ran() autofocus>",
    '<div data-toggle="tooltip" data-html="true" title="<img src=x onerror=ran()>">hover</div>',
)

# of what a branch and a tag may be called: no blank, ~ ^ : ? * [ \ and no //
REFERENCES = ("<img/src=x/onerror=ran()>", "<svg/onload=ran()>", '"><script>ran()</script>', "y`touch-x`$(id)")

TERMINAL = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b2J",
    "\x1b[2K\rerror: nothing is wrong",
    "over\x08\x08\x08\x08write",
    "a line\nerror: another",
    "a line\u2028error: another\u2029x\x85y\x0bz\x0c",
    "\u202egnp.exe\u202c",
    "\u2066isolated\u2069 \u200fmark",
    "zero\u200bwidth\ufeff\u00ad",
    "\x00\x7f",
    "tag \U000e0041\U000e007f",
    "half a pair \ud83d",
)

MARKDOWN = (
    "<img src=x onerror=ran()>",
    "<script>ran()</script>",
    "<!-- hidden",
    "![image](https://evil.example/x.png)",
    "[link](javascript:ran())",
    "[link][1]",
    "[1]: https://evil.example",
    "<https://evil.example>",
    "https://evil.example www.evil.example ftp://evil.example",
    "someone@evil.example",
    "@somebody and @org/team",
    "#1, GH-1 and owner/name#1",
    "a | cell | more",
    "`code` ``more``",
    "```\nfence",
    "~~~ fence ~~~",
    "~~struck~~",
    "*emphasis* **strong** _under_ __score__",
    "# heading",
    "> quotation",
    "- [x] task",
    "+ list",
    "1. list",
    "12) list",
    "---",
    "===",
    "    code by indentation",
    "\\<b>\\[x](y)\\`z`",
    "&lt;b&gt; &#64;somebody &copy;",
    "$\\color{red}{x}$ and $$y$$",
    "[^1] footnote",
    "line  \nbreak<br>",
)

NORMAL = (
    "torch 2.11.0+cu130",
    "Intel(R) Xeon(R) Processor @ 2.80GHz",
    "NVIDIA H100 80GB HBM3",
    "esm2_t6_8M_UR50D",
    "engine.Engine.track_load_seconds('esm2_t33_650M_UR50D', 'bf16', 'mixed')",
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB, 90 % used (of 80 GiB); see docs",
    "main~2",
    "feature/new-kernel_2",
    "6.77k ±3%! ~",
    "virtualenv-py3.11-fair-esm2.0.0-torch2.13.0",
    "R&D",
    "-0.5",
    "1.5",
)
"""What is not changed."""
