// Numbers as the panel shows them.

/** Formats a rate or a count with three digits, as in "12.3" and "4.56M". */
export function formatNumber(value: number | null): string {
  if (value === null) return "";
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

/** Formats a duration, as in "3.2 s", "02:05" and "1:02:05". */
export function formatDuration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const twoDigits = (n: number): string => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = `${twoDigits(Math.floor((whole % 3600) / 60))}:${twoDigits(whole % 60)}`;
  return hours ? `${hours}:${minutes}` : minutes;
}
