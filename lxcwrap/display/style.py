"""How everything looks: one style sheet, of which each output brings a copy.

Colours follow JupyterLab's theme where there is one, else what the reader's system prefers. No scripts: a
saved notebook and an exported page show the same.
"""

from __future__ import annotations

from typing import Final

_LIGHT: Final = (
    "--lx-fg:var(--jp-content-font-color1,#1f2328);--lx-dim:#656d76;--lx-line:#d8dee4;"
    "--lx-soft:#f6f8fa;--lx-bg:var(--jp-layout-color0,#fff);"
    "--lx-good:#2da44e;--lx-busy:#bf8700;--lx-bad:#cf222e;--lx-idle:#afb8c1;"
    "--lx-1:#3867d6;--lx-2:#c2571a;--lx-3:#1f8a70;--lx-4:#8e44ad;--lx-5:#b8860b;--lx-6:#c0396b"
)
_DARK: Final = (
    "--lx-fg:var(--jp-content-font-color1,#e6edf3);--lx-dim:#8d96a0;--lx-line:#373e47;"
    "--lx-soft:rgba(177,186,196,.08);--lx-bg:var(--jp-layout-color0,#15181d);"
    "--lx-good:#3fb950;--lx-busy:#d29922;--lx-bad:#f85149;--lx-idle:#6e7681;"
    "--lx-1:#79a3ff;--lx-2:#f0955c;--lx-3:#4cc3a1;--lx-4:#c58af9;--lx-5:#e3b341;--lx-6:#f778ba"
)

# Doubled, to weigh more than what JupyterLab says of tables.
_L: Final = ".lxcwrap.lxcwrap"

SHEET: Final = (
    f"""
.lxcwrap{{{_LIGHT}}}
@media (prefers-color-scheme:dark){{.lxcwrap{{{_DARK}}}}}
[data-jp-theme-light=true] .lxcwrap{{{_LIGHT}}}
[data-jp-theme-light=false] .lxcwrap,.vscode-dark .lxcwrap{{{_DARK}}}
{_L}{{color:var(--lx-fg);background:var(--lx-bg);font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);
padding:4px 2px;overflow-x:auto}}
{_L} .lx-h{{margin:0 0 6px;font-size:13px}}{_L} .lx-h b{{font-weight:600;margin-right:8px}}
{_L} .lx-dim{{color:var(--lx-dim)}}
{_L} table{{border-collapse:collapse;border:0;margin:0;font-size:13px;color:inherit;width:auto;
table-layout:auto}}
{_L} tr,{_L} tbody tr:nth-child(n){{background:none;border:0}}{_L} tbody tr:hover{{background:var(--lx-soft)}}
{_L} th,{_L} td{{padding:3px 16px 3px 0;text-align:left;vertical-align:baseline;border:0;max-width:none;
white-space:nowrap;border-bottom:1px solid var(--lx-line)}}
{_L} tbody tr:last-child td{{border-bottom:0}}
{_L} th{{color:var(--lx-dim);font-weight:400;font-size:11px;background:none}}
{_L} .lx-number,{_L} .lx-head-number{{text-align:right;font-variant-numeric:tabular-nums}}
{_L} .lx-name{{font-weight:600}}
{_L} .lx-code{{font:12px/1.5 var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)}}
{_L} td.lx-code{{max-width:20em;overflow:hidden;text-overflow:ellipsis}}
{_L} .lx-dot{{display:inline-block;width:8px;height:8px;border-radius:50%;margin-right:7px;
background:var(--lx-idle)}}
{_L} .lx-good .lx-dot{{background:var(--lx-good)}}{_L} .lx-busy .lx-dot{{background:var(--lx-busy)}}
{_L} .lx-bad .lx-dot{{background:var(--lx-bad)}}
{_L} .lx-meter{{display:inline-block;width:56px;height:5px;border-radius:3px;background:var(--lx-line);
margin-left:9px;vertical-align:2px;overflow:hidden}}
{_L} .lx-meter i{{display:block;height:100%;background:var(--lx-1)}}
{_L} .lx-meter.lx-full i{{background:var(--lx-bad)}}
{_L} dl{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:2px 20px;margin:0}}
{_L} dt{{color:var(--lx-dim);font-weight:400;margin:0;float:none;width:auto;white-space:nowrap}}
{_L} dd{{margin:0;overflow-wrap:anywhere}}
{_L} .lx-out{{max-height:24em;overflow:auto;background:var(--lx-soft);border-radius:6px;padding:8px 12px;
display:flex;flex-direction:column}}
{_L} .lx-out.lx-follows{{flex-direction:column-reverse}}
{_L} pre{{flex:none;overflow:visible;margin:0;padding:0;background:none;color:inherit;white-space:pre-wrap;
overflow-wrap:anywhere;
font:12px/1.5 var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)}}
{_L} pre .lx-bad{{color:var(--lx-bad)}}
{_L} svg{{display:block;overflow:visible}}{_L} td svg{{display:inline-block;vertical-align:-4px;
margin-right:8px}}
{_L} svg text{{font:11px var(--jp-ui-font-family,system-ui,sans-serif);fill:var(--lx-dim)}}
{_L} svg .lx-strong{{fill:var(--lx-fg);font-weight:600;font-size:12px}}{_L} svg .lx-fg{{fill:var(--lx-fg)}}
{_L} svg .lx-rule{{stroke:var(--lx-line);stroke-width:1;fill:none}}
{_L} svg .lx-box{{fill:var(--lx-soft);stroke:var(--lx-line)}}
{_L} svg .lx-arrow{{stroke:var(--lx-dim);fill:none}}
{_L}>*+.lx-h,{_L}>*+table,{_L}>*+dl,{_L}>*+.lx-out,{_L}>*+svg{{margin-top:12px}}{_L}>.lx-h+*{{margin-top:0}}
""".replace("\n", "")
    + "".join(
        f"{_L} .lx-l{n}{{stroke:var(--lx-{n});fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke;"
        f"stroke-linejoin:round}}{_L} .lx-f{n}{{fill:var(--lx-{n});fill-opacity:.13;stroke:none}}"
        f"{_L} .lx-p{n}{{fill:var(--lx-{n})}}{_L} svg text.lx-p{n}{{fill:var(--lx-{n})}}"
        for n in range(1, 7)
    )
)
