/** Width, hidden width and tokens of a backbone's blocks at 224 pixels. */
export const BACKBONES = {
  'S/16': { dim: 384, hiddenDim: 1536, tokens: 196 },
  'B/16': { dim: 768, hiddenDim: 3072, tokens: 196 },
  'L/16': { dim: 1024, hiddenDim: 4096, tokens: 196 },
  'H/14': { dim: 1280, hiddenDim: 5120, tokens: 256 },
} as const

export type BackboneName = keyof typeof BACKBONES

/** Which pass is timed; the backward gives the gradients of all weights and of the input. */
export type Pass = 'forward' | 'forward+backward'

/** Experts, and slots of each. */
export interface ExpertShape {
  readonly numExperts: number
  readonly slotsPerExpert: number
}

/** As many slots as an image has tokens, among experts that divide them. */
export function slotsLikeTokens(backbone: BackboneName): ExpertShape {
  return BACKBONES[backbone].tokens === 256
    ? { numExperts: 32, slotsPerExpert: 8 }
    : { numExperts: 28, slotsPerExpert: 7 }
}
