// How a report looks: one sheet for both themes and every width. Colours are custom properties, so
// that a plot drawn once fits both. Channels take a ramp of one hue, told apart by lightness and a
// gap; other series take colours that stay apart for the colour-blind (after Okabe and Ito).

/** Shades of the ramp; more channels than these share one. */
export const SHADES = 8

const LIGHT = `
  --page: #f4f6fa; --card: #ffffff; --ink: #16202e; --soft: #5a6675; --line: #dde3ec;
  --accent: #1f5fbf; --accent-soft: #cfdff7; --warm: #c2500a; --good: #0b7a55; --bad: #b3261e;
  --stop: #c2500a24;
  --shade-0: #123f82; --shade-1: #1b58ad; --shade-2: #2b73cf; --shade-3: #4a8fe0;
  --shade-4: #6ba8ea; --shade-5: #8abdf0; --shade-6: #a6cff5; --shade-7: #bfdff9;
  --part-0: #0072b2; --part-1: #e08a00; --part-2: #56a9d8; --part-3: #009268; --part-4: #b8588f;
  --part-5: #7a7f87;`
const DARK = `
  --page: #0d1117; --card: #161c25; --ink: #e8edf4; --soft: #9ba8b8; --line: #2b3543;
  --accent: #6aa9f7; --accent-soft: #24405f; --warm: #ff9d57; --good: #4cc79b; --bad: #ff8a80;
  --stop: #ff9d5726;
  --shade-0: #28579a; --shade-1: #3168b3; --shade-2: #3d7bca; --shade-3: #5190dd;
  --shade-4: #6ca6ea; --shade-5: #8cbcf2; --shade-6: #accff7; --shade-7: #c9e0fb;
  --part-0: #4aa3df; --part-1: #f0ad3e; --part-2: #9bd4f5; --part-3: #35bd92; --part-4: #dc8fbb;
  --part-5: #a3a9b2;`

export const STYLES = `
:root { color-scheme: light dark; ${LIGHT} }
@media (prefers-color-scheme: dark) { :root { ${DARK} } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 40px; }
header { margin-bottom: 22px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.02em;
  text-wrap: balance; }
h2 { font-size: 1.05rem; margin: 0 0 2px; }
p { margin: 0; }
.lead, figcaption, .note, dt, th, summary { color: var(--soft); }
.state { display: inline-block; font-weight: 600; font-size: .85rem; border-radius: 99px;
  padding: 1px 11px; margin-bottom: 10px; border: 1.5px solid currentColor; }
.completed { color: var(--good); }
.failed { color: var(--bad); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 16px; padding: 0; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 13px 16px; flex: 1 1 220px; min-width: 0; }
.tile dt { font-size: .82rem; }
.tile dd { margin: 0; }
.tile .value { font-size: 1.6rem; font-weight: 650; line-height: 1.25; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.tile .unit { font-size: .95rem; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.tile .note { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
.cards > * { grid-column: span 2; }
.cards > .half { grid-column: span 1; }
section { padding: 18px 20px; min-width: 0; }
figure { margin: 0; }
figcaption { font-size: .88rem; margin-bottom: 12px; max-width: 85ch; text-wrap: pretty; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-variant-numeric: tabular-nums; }
.narrow { display: none; }
.key { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 10px 0 0; padding: 0;
  font-size: .85rem; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
td:first-child { padding-right: 8px; }
details { margin-top: 12px; font-size: .88rem; }
summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums;
  margin-top: 8px; }
th { font-weight: 500; text-align: right; vertical-align: bottom; }
td { text-align: right; white-space: nowrap; }
th, td { padding: 4px 0 4px 16px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
th:first-child, td:first-child, .words { text-align: left; }
tr:last-child td { border-bottom: 0; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 12ch; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 32px;
  margin: 6px 0 0; font-size: .88rem; }
.facts div { display: flex; justify-content: space-between; gap: 16px; padding: 4px 0;
  border-bottom: 1px solid var(--line); }
.facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.notes { margin: 6px 0 0; padding-left: 1.2em; font-size: .88rem; }
footer { color: var(--soft); font-size: .82rem; margin-top: 18px; }
@media (max-width: 720px) {
  main { padding: 18px 12px 28px; }
  h1 { font-size: 1.4rem; }
  section { padding: 15px 14px; }
  .cards > .half { grid-column: span 2; }
  .tiles { gap: 8px; }
  .tile { padding: 10px 12px; flex-basis: 135px; }
  .tile .value { font-size: 1.35rem; }
  .facts { grid-template-columns: minmax(0, 1fr); }
  .wide { display: none; }
  .narrow { display: block; }
}
@media print { body { background: none; } section, .tile { break-inside: avoid; } }
`
