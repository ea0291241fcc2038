/** What the user sees while a run lasts: a bar on a terminal, else a line every so often. */
import { SingleBar } from 'cli-progress'
import type { EvalRecord, TrainRecord } from '../training/metrics.js'

/** Shows the progress of a run. */
export interface Progress {
  step(record: TrainRecord): void
  evaluation(record: EvalRecord): void
  /** A line for the user that does not belong to the bar. */
  message(text: string): void
  stop(): void
}

/** Least time between two lines where there is no terminal. */
const LINE_INTERVAL_MS = 5000

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

/** `1 h 02 min`, `3 min 20 s`, `5 s`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const whole = Math.max(0, Math.round(seconds))
  const two = (value: number): string => String(value).padStart(2, '0')
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`
  return whole >= 60 ? `${Math.floor(whole / 60)} min ${two(whole % 60)} s` : `${whole} s`
}

/** `1:02:03`, `12:05`: a duration in little room. */
function clock(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const whole = Math.max(0, Math.round(seconds))
  const two = (value: number): string => String(value).padStart(2, '0')
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)]
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`
}

/** What a bar's line says. */
export interface BarState {
  readonly step: number
  readonly steps: number
  readonly loss: number
  /** Share. */
  readonly accuracy: number
  readonly imagesPerSecond: number
  readonly secondsLeft: number
}

const MAX_BAR = 40

/** The line of a bar, in at most `columns` columns if the text alone takes no more: the bar fills what is left. */
export function barLine(state: BarState, columns: number): string {
  const { step, steps, loss, accuracy, imagesPerSecond, secondsLeft } = state
  const text = [
    `${step}/${steps}`,
    `loss ${loss.toFixed(3)}`,
    `accuracy ${percent(accuracy)}`,
    `${imagesPerSecond.toFixed(0)} images/s`,
    `${clock(secondsLeft)} left`,
  ].join('  ')
  // The last column stays free: some terminals wrap when it is written.
  const room = Math.min(MAX_BAR, columns - text.length - 2)
  if (room < 3) return text
  const filled = Math.round((room * step) / steps)
  return `${'█'.repeat(filled)}${'░'.repeat(room - filled)} ${text}`
}

/** Loss, accuracy and speed, smoothed over about twenty steps. */
class Smoothed {
  #values: { loss: number; accuracy: number; secondsPerImage: number } | undefined

  add({ loss, accuracy, imagesPerSecond }: TrainRecord): void {
    const secondsPerImage = 1 / imagesPerSecond
    const old = this.#values ?? { loss, accuracy, secondsPerImage }
    const blend = (before: number, now: number): number => 0.95 * before + 0.05 * now
    this.#values = {
      loss: blend(old.loss, loss),
      accuracy: blend(old.accuracy, accuracy),
      secondsPerImage: blend(old.secondsPerImage, secondsPerImage),
    }
  }

  /** @param imagesLeft - of the run */
  state(imagesLeft: number): Omit<BarState, 'step' | 'steps'> {
    const { loss, accuracy, secondsPerImage } = this.#values ?? {
      loss: 0,
      accuracy: 0,
      secondsPerImage: Infinity,
    }
    return { loss, accuracy, imagesPerSecond: 1 / secondsPerImage, secondsLeft: imagesLeft * secondsPerImage }
  }
}

function evaluationText({ step, loss, accuracy, images }: EvalRecord): string {
  return `step ${step}: test accuracy ${percent(accuracy)}, loss ${loss.toFixed(3)} (${images} images)`
}

/**
 * @param print - writes a line
 * @param isTerminal - whether a bar can be drawn on standard error
 */
export function createProgress(
  { steps, start, batchSize }: { readonly steps: number; readonly start: number; readonly batchSize: number },
  print: (line: string) => void,
  isTerminal: boolean,
): Progress {
  const smoothed = new Smoothed()
  const state = (step: number): BarState => ({
    step,
    steps,
    ...smoothed.state((steps - step) * batchSize),
  })
  if (!isTerminal) {
    let lastLine = -Infinity
    return {
      step: (record) => {
        smoothed.add(record)
        const done = record.step + 1
        if (done < steps && performance.now() - lastLine < LINE_INTERVAL_MS) return
        lastLine = performance.now()
        const { loss, accuracy, imagesPerSecond, secondsLeft } = state(done)
        print(
          `step ${done}/${steps}, loss ${loss.toFixed(3)}, accuracy ${percent(accuracy)}, ` +
            `${imagesPerSecond.toFixed(0)} images/s, ${duration(secondsLeft)} left`,
        )
      },
      evaluation: (record) => {
        print(evaluationText(record))
      },
      message: print,
      stop: () => undefined,
    }
  }
  const bar = new SingleBar({
    format: (_options, _params, payload: BarState) => barLine(payload, process.stderr.columns),
    hideCursor: true,
    gracefulExit: false,
    clearOnComplete: true,
  })
  bar.start(steps, start, state(start))
  /** The bar's line is cleared first; its next drawing comes below the text. */
  const message = (text: string): void => {
    process.stderr.write(`\r\u001b[K${text}\n`)
  }
  return {
    step: (record) => {
      smoothed.add(record)
      bar.update(record.step + 1, state(record.step + 1))
    },
    evaluation: (record) => message(evaluationText(record)),
    message,
    stop: () => {
      // The bar goes back to where the cursor was saved at its start, over the lines printed since: save it here anew,
      // with line wrapping on, which is saved too.
      if (bar.isActive) process.stderr.write('\u001b[?7h\u001b7')
      bar.stop()
    },
  }
}
