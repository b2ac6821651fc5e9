// The panel beside the live map: stages, loss and workers.

import { createElement } from "./elements";
import { formatDuration, formatNumber } from "./format";
import { createLossCurve } from "./lossCurve";
import type { ProgressState, StageStatus, WorkerStatus } from "./state";

const STATE_LABELS = { running: "Running", finished: "Finished", stopped: "Stopped", failed: "Failed" };
/** Of more shards only the number is shown. */
const MAX_LISTED_SHARDS = 8;

/** Returns the elements of the panel. */
export function createProgressPanel(progress: ProgressState): Node[] {
  const elements: Node[] = [createHead(progress)];
  if (progress.said) elements.push(createElement("p", "nomad-message", progress.said));
  elements.push(createElement("table", "nomad-stages", ...progress.stages.map(createStageRow)));
  const lastLoss = progress.losses.at(-1);
  if (lastLoss && progress.epoch) {
    const [epoch, nEpochs] = progress.epoch;
    elements.push(createElement("div", "nomad-label", `loss ${lastLoss[1].toFixed(4)}, epoch ${epoch} of ${nEpochs}`));
    elements.push(createLossCurve(progress.losses, nEpochs));
  }
  if (progress.workers.length) {
    elements.push(createElement("table", "nomad-workers", ...progress.workers.map(createWorkerRow)));
  }
  for (const address of progress.lost) {
    elements.push(createElement("div", "nomad-lost", `worker ${address} was lost`));
  }
  // Other schemes, such as javascript:, would run code.
  if (progress.dashboard && /^https?:\/\//.test(progress.dashboard)) elements.push(createLink(progress.dashboard));
  return elements;
}

function createHead(progress: ProgressState): HTMLElement {
  const head = createElement(
    "div",
    "nomad-head",
    createElement("strong", "", STATE_LABELS[progress.state]),
    createElement("span", "", formatDuration(progress.seconds)),
  );
  // A button would have no effect: the kernel reads messages of widgets only after the cell has finished.
  if (progress.state === "running") {
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
