"""How the page and the picture look: by light and dark, on a telephone and on paper. Colours are told apart by who is
colour-blind (blue, orange and green of Okabe and Ito, darkened or lightened for contrast), and never say anything alone."""

LIGHT = """--page:#f6f7f9;--card:#fff;--ink:#16202c;--quiet:#566373;--line:#dfe4ea;--soft:#eef1f5;--blue:#0a66b0;
--orange:#b84a00;--green:#00785a;--wash:#e4f0f9;--pale:#a9cbe6;--dot:#98a5b3"""
DARK = """--page:#10151b;--card:#181f27;--ink:#e8edf3;--quiet:#a3b0bf;--line:#2c3743;--soft:#212a34;--blue:#66b5f0;
--orange:#f39a4a;--green:#3dbd97;--wash:#17293a;--pale:#2f5878;--dot:#65727f"""

PLOT = """
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--quiet);font-variant-numeric:tabular-nums}
text.goal{fill:var(--orange);font-weight:600}text.label{fill:var(--ink);font-weight:600;font-size:13px;paint-order:stroke;
stroke:var(--card);stroke-width:4px}text.head{font-size:17px;font-weight:650;fill:var(--ink)}
line{stroke:var(--line)}line.axis{stroke:var(--quiet)}line.goal{stroke:var(--orange);stroke-width:1.5;stroke-dasharray:5 4}
line.curve{stroke:var(--blue);stroke-width:2.5;stroke-linecap:round}line.drop{stroke:var(--blue);stroke-dasharray:2 3}
rect.paper{fill:var(--card)}.enough{fill:var(--wash);opacity:.6}circle.tried{fill:var(--card);stroke:var(--dot);stroke-width:1.5}
circle.best{fill:var(--blue)}circle.chosen{fill:var(--blue)}circle.ring{fill:var(--card);stroke:var(--blue);stroke-width:2.5}
"""

PAGE = """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
overflow-wrap:break-word}
main{max-width:1120px;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:clamp(1.35rem,1rem + 1.5vw,1.85rem);line-height:1.28;font-weight:650;letter-spacing:-.012em;
margin:.35rem 0 1.3rem;text-wrap:pretty}
h2{font-size:1.12rem;font-weight:650;margin:0 0 .15rem}h3{font-size:.95rem;font-weight:650;margin:.8rem 0 .2rem}
p{margin:.2rem 0 .8rem}
.eyebrow,.small{color:var(--quiet);font-size:.875rem}.eyebrow{margin:0}.lead{margin-top:-.7rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.25rem 1.5rem;margin-top:1rem;
min-width:0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,14.5rem),1fr));background:var(--card);
border:1px solid var(--line);border-radius:10px;overflow:hidden;margin:0}
.facts>div{padding:1rem 1.5rem;box-shadow:-1px -1px 0 var(--line)}
.facts dt{color:var(--quiet);font-size:.875rem}.facts dd{margin:0}
.facts .big{font-size:1.6rem;line-height:1.3;font-weight:650;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.big small{font-size:1rem;font-weight:400;letter-spacing:0;color:var(--quiet)}
.binds{border-left:4px solid var(--blue);padding:.1rem 0 .1rem 1rem;margin:1.2rem 0 0}.binds b{display:block}
.notes{color:var(--quiet);font-size:.9rem;margin:.8rem 0 0;padding-left:1.2rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:0 1rem}
.plot{padding:28px 12px 50px 62px}.plot svg{display:block;overflow:visible}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;list-style:none;margin:.2rem 0 0;padding:0;font-size:.875rem;
color:var(--quiet)}.key li{display:flex;align-items:center;gap:.3rem}
.rows{list-style:none;margin:.4rem 0;padding:0}
.rows li{display:grid;grid-template-columns:minmax(0,13rem) minmax(0,1fr) 5rem;gap:0 1.2rem;align-items:center}
.pair .rows li{grid-template-columns:2.5rem minmax(0,1fr) 4.5rem}
.pair .busy li{grid-template-columns:11.3rem minmax(0,1fr) 6.7rem}
.told li{grid-template-columns:minmax(0,5fr) minmax(0,6fr) 5rem;padding:.3rem 0}.told p{margin:0}.told b{font-weight:600}
.rows .value{text-align:right;font-variant-numeric:tabular-nums}
.over{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
svg.bar{display:block;overflow:visible}
rect.more,circle.more,rect.mean,rect.all{fill:var(--blue)}rect.less,circle.less{fill:var(--orange)}rect.cold{fill:var(--green)}
rect.more,rect.less{opacity:.45}rect.busiest{fill:var(--pale)}rect.empty{fill:var(--soft)}
rect.band{fill:var(--orange);opacity:.13}
.yes{color:var(--blue)}.no{color:var(--orange)}
.wide-table{overflow-x:auto;margin:.6rem 0}details .wide-table{max-height:36rem}
table{border-collapse:separate;border-spacing:0;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet);padding-bottom:.3rem}
th,td{padding:.38rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;background:var(--card)}
th:first-child{text-align:left;padding-left:0;position:sticky;left:0;white-space:normal;min-width:min(13rem,38vw);max-width:22rem}
thead th{color:var(--quiet);font-weight:600;vertical-align:bottom;position:sticky;top:0}thead th:first-child{z-index:1}
tbody th{font-weight:400}.marked>*{font-weight:650;background:var(--wash)}
details{margin-top:.7rem}summary{cursor:pointer;color:var(--blue);width:fit-content}
section dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.25rem 1.2rem;margin:.5rem 0;font-size:.9rem}
section dl dl,dd .wide-table{margin:0}dd th:first-child{min-width:5rem}
section dt{font-weight:600}section dd{margin:0}section dl>p{grid-column:1/3}
pre{background:var(--soft);border-radius:8px;padding:.9rem 1.1rem;margin:.3rem 0 .6rem;overflow-x:auto;user-select:all;
-webkit-user-select:all;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
@media(max-width:640px){main{padding:1.2rem .8rem 3rem}section{padding:1rem}.plot{padding:24px 6px 50px 52px}
.plot .label,.plot .spare{display:none}
.rows li,.told li,.pair .busy li{grid-template-columns:minmax(0,1fr) auto}.rows li>svg{grid-column:1/3;grid-row:2}
.pair .rows:not(.busy) li>svg{grid-column:auto;grid-row:auto}
section dl{grid-template-columns:minmax(0,1fr);gap:0}section dd{margin:0 0 .4rem .8rem}
.rows .axis{padding-top:0}.told li{align-items:start}.told .small{grid-column:1/3}}
@media print{@page{margin:14mm}body{background:#fff;font-size:10pt;print-color-adjust:exact;
-webkit-print-color-adjust:exact}main{max-width:none;padding:0}section,.facts{border-color:#ccc}
.facts,.pair,.rows li,.plot,tr{break-inside:avoid}h2{break-after:avoid}
.wide-table{overflow:visible;max-height:none}th,td{white-space:normal;padding:.2rem .3rem}table{font-size:7pt}
th:first-child{min-width:5.5rem}thead th,th:first-child{position:static}pre{white-space:pre-wrap}
details:not([open]){display:none}}
"""


def for_page() -> str:
    """Light, or dark where that is preferred; on paper light."""
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    return f":root{{color-scheme:light dark;{LIGHT}}}{dark}{PAGE}{PLOT}"


def for_picture() -> str:
    """Light: whoever shows a picture does not say to it what is around it."""
    return f"svg{{{LIGHT}}}{PLOT}"
