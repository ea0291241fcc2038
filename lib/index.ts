export { version } from './native.js'
export type {
  Activation,
  MemoryUsage,
  RandomKey,
  RouterLossKind,
  RoutingPriority,
  RoutingSide,
  RoutingWeights,
} from './native.js'
export { Device, openDevice, setThreads } from './core/device.js'
export type { DeviceKind, FillOptions, RandomOptions, TensorOptions } from './core/device.js'
export type { DType, FloatDType, TensorData } from './core/dtype.js'
export { SoftMoEError } from './core/errors.js'
export type { ErrorCode } from './core/errors.js'
export { scope } from './core/lifetime.js'
export { customGradient, isRecording, noGrad, setDetectAnomaly, Tape } from './core/tape.js'
export type { GradientFunction } from './core/tape.js'
export { isTensor, Tensor } from './core/tensor.js'
export * from './ops/attention.js'
export * from './ops/elementwise.js'
export * from './ops/experts.js'
export * from './ops/linear.js'
export * from './ops/losses.js'
export * from './ops/normalization.js'
export { combine, combineWeights, dispatch, dispatchWeights, softLogits } from './ops/soft-routing.js'
export type { SoftLogits, SoftLogitsOptions, SoftRoutingPlan } from './ops/soft-routing.js'
