// The panel beside the live map: stages, loss and workers.

import { createElement } from "./elements";
import { formatDuration, formatNumber } from "./format";
import { createLossCurve } from "./lossCurve";
import type { Figures, StageStatus, WorkerStatus } from "./state";

const STATE_LABELS = { running: "Running", finished: "Finished", stopped: "Stopped", failed: "Failed" };
/** Of more shards only the number is shown. */
const MAX_LISTED_SHARDS = 8;

/** Returns the elements of the panel. */
export function createProgressPanel(figures: Figures): Node[] {
  const elements: Node[] = [createHead(figures)];
  if (figures.said) elements.push(createElement("p", "nomad-message", figures.said));
  elements.push(createElement("table", "nomad-stages", ...figures.stages.map(createStageRow)));
  const lastLoss = figures.losses.at(-1);
  if (lastLoss && figures.epoch) {
    const [epoch, nEpochs] = figures.epoch;
    elements.push(createElement("div", "nomad-label", `loss ${lastLoss[1].toFixed(4)}, epoch ${epoch} of ${nEpochs}`));
    elements.push(createLossCurve(figures.losses, nEpochs));
  }
  if (figures.workers.length) {
    elements.push(createElement("table", "nomad-workers", ...figures.workers.map(createWorkerRow)));
  }
  for (const address of figures.lost) {
    elements.push(createElement("div", "nomad-lost", `worker ${address} was lost`));
  }
  // Other schemes, such as javascript:, would run code.
  if (figures.dashboard && /^https?:\/\//.test(figures.dashboard)) elements.push(createLink(figures.dashboard));
  return elements;
}

function createHead(figures: Figures): HTMLElement {
  const head = createElement(
    "div",
    "nomad-head",
    createElement("strong", "", STATE_LABELS[figures.state]),
    createElement("span", "", formatDuration(figures.seconds)),
  );
  // A button would have no effect: the kernel reads messages of widgets only after the cell has finished.
  if (figures.state === "running") {
    head.append(createElement("span", "nomad-hint", "interrupt the kernel to stop"));
  }
  return head;
}

function createStageRow(stage: StageStatus): HTMLElement {
  const rate = stage.rate ? `${formatNumber(stage.rate)} ${stage.unit}/s` : "";
  return createElement(
    "tr",
    `nomad-${stage.state}`,
    createElement("th", stage.name.startsWith("coarse ") ? "nomad-substage" : "", stage.name),
    createElement("td", "", createProgressBar(stage)),
    createElement("td", "nomad-number", rate),
    createElement("td", "nomad-number", describeTime(stage)),
  );
}

/** Creates a bar that is indeterminate until a running stage reports progress. */
function createProgressBar(stage: StageStatus): HTMLElement {
  const bar = createElement("progress");
  bar.max = 1;
  const share = stage.total ? stage.done / stage.total : 0;
  if (stage.state !== "running") bar.value = 1;
  else if (share) bar.value = share;
  bar.setAttribute("aria-label", stage.name);
  return bar;
}

function describeTime(stage: StageStatus): string {
  if (stage.state === "earlier") return "done before";
  if (stage.seconds !== null) return formatDuration(stage.seconds);
  return stage.left === null ? "" : `${formatDuration(stage.left)} left`;
}

function createWorkerRow(worker: WorkerStatus): HTMLElement {
  const { shards } = worker;
  const shardLabel = shards.length > MAX_LISTED_SHARDS ? `${shards.length} shards` : `shard ${shards.join(", ")}`;
  return createElement(
    "tr",
    "",
    createElement("th", "nomad-address", worker.address),
    createElement("td", "", worker.device),
    createElement("td", "", shardLabel),
    createElement("td", "nomad-number", `${formatNumber(worker.rows)} rows`),
    createElement("td", "nomad-number", worker.rate ? `${formatNumber(worker.rate)} rows/s` : ""),
  );
}

function createLink(address: string): HTMLElement {
  const link = createElement("a", "", "Dask dashboard");
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener";
  return link;
}
