import { LabIcon } from "@jupyterlab/ui-components";

/** Three operators, the last of which is off. */
export const icon = new LabIcon({
  name: "tapml-nb:icon",
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 16 16">
<g class="jp-icon3" fill="#616161"><rect x="1" y="2" width="6" height="4" rx="1"/>
<rect x="9" y="2" width="6" height="4" rx="1"/>
<path d="M3.5 6h1v4h3.5v1H3.5zM11.500 6h1v3h-1z"/></g>
<path d="M9.300 9.600l1-1 1.700 1.700 1.700-1.700 1 1-1.700 1.700 1.700 1.700-1 1-1.700-1.700-1.700 1.700-1-1 1.700-1.700z" fill="#d55e00"/></svg>`,
});
