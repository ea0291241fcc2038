export { version } from './native.js'
export type {
  Activation,
  MemoryUsage,
  RandomKey,
  RouterLossKind,
  RoutingPriority,
  RoutingSide,
  RoutingWeights,
  WeightFormat,
} from './native.js'
export { capture, CapturedFunction } from './core/capture.js'
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
export * from './ops/router-losses.js'
export * from './ops/sparse-routing.js'
export * from './ops/transport-plans.js'
export { RandomSource } from './core/random-source.js'
export type { RandomState } from './core/random-source.js'
export { MultiHeadAttention } from './layers/attention.js'
export type { MultiHeadAttentionOptions } from './layers/attention.js'
export { EncoderBlock } from './layers/encoder-block.js'
export type { EncoderBlockOptions } from './layers/encoder-block.js'
export { Experts, Mlp } from './layers/experts.js'
export type { ExpertsLayerOptions, FreezeOptions, MlpOptions } from './layers/experts.js'
export * from './layers/initializers.js'
export { LayerNorm } from './layers/layer-norm.js'
export type { LayerNormOptions } from './layers/layer-norm.js'
export { Linear } from './layers/linear.js'
export type { LinearLayerOptions } from './layers/linear.js'
export { MapHead } from './layers/map-head.js'
export type { MapHeadOptions } from './layers/map-head.js'
export { MoE, SoftMoE, SparseMoE } from './layers/moe.js'
export type { MoEOutput, SoftMoELayerOptions, SparseMoELayerOptions } from './layers/moe.js'
export { Module } from './layers/module.js'
export type { LayerContext } from './layers/module.js'
export { Parameter } from './layers/parameter.js'
export { sincos2d } from './layers/position-embedding.js'
export type { MoEBlocks, MoEConfig, VisionTransformerConfig } from './models/config.js'
export { SOFT_MOE_LAST_BLOCKS, vit, vmoe, vmoeConfig } from './models/presets.js'
export type { Backbone, VMoEOptions } from './models/presets.js'
export { VisionTransformer } from './models/vision-transformer.js'
export type { ModelOutput } from './models/vision-transformer.js'
export { AdamW } from './optim/adamw.js'
export type { AdamWOptions } from './optim/adamw.js'
export { Optimizer } from './optim/optimizer.js'
export type { OptimizerOptions, StepOperands, StepResult } from './optim/optimizer.js'
export { kernelDecay } from './optim/rules.js'
export type { ByName } from './optim/rules.js'
export * from './optim/schedules.js'
export { Sgd } from './optim/sgd.js'
export type { SgdOptions } from './optim/sgd.js'
export { defaultSlotsPerExpert, expertCapacity } from './routers/capacity.js'
export type { CapacityOptions } from './routers/capacity.js'
export { createRouter, createSparseRouter, routerConfig } from './routers/create-router.js'
export type {
  RouterConfig,
  RouterShape,
  SoftRouterConfig,
  SparseRouterConfig,
} from './routers/create-router.js'
export { expertsChoice, ExpertsChoiceRouter } from './routers/experts-choice.js'
export type { ExpertsChoiceConfig, ExpertsChoiceOptions } from './routers/experts-choice.js'
export { ROUTER_NAMES, SPARSE_ROUTER_NAMES } from './routers/names.js'
export type { RouterName, SparseRouterName } from './routers/names.js'
export { Router } from './routers/router.js'
export type { MetricsOptions, RouteOptions, Routing } from './routers/router.js'
export { SoftRouter } from './routers/soft.js'
export type { SoftRouterOptions, SoftRoutingWeights } from './routers/soft.js'
export { Random, RandomPurpose, streamOf } from './core/random.js'
export type { AugmentOptions } from './data/augment.js'
export type { Batch } from './data/batch.js'
export { readCifarFolder } from './data/cifar.js'
export type { CifarOptions } from './data/cifar.js'
export { channelStatistics, createDataset, sliceDataset } from './data/dataset.js'
export type { ChannelStatistics, DatasetSplit, ImageDataset } from './data/dataset.js'
export { readIdx, readIdxFolder, readIdxPair } from './data/idx.js'
export type { IdxArray, IdxOptions, IdxType } from './data/idx.js'
export { readImageFolder } from './data/image-folder.js'
export type { ImageFolderOptions } from './data/image-folder.js'
export { loadImages } from './data/loader.js'
export type { ImageLoader, LoaderOptions } from './data/loader.js'
export { FASHION_MNIST_CLASSES, openDataset, readEmbeddedFashionMnist } from './data/open-dataset.js'
export type { OpenDatasetOptions } from './data/open-dataset.js'
export { encodePng, readPng, resizePicture, withChannels } from './data/png.js'
export type { Picture } from './data/png.js'
export { loadCheckpoint, readCheckpointInfo, saveCheckpoint } from './training/checkpoint.js'
export type { CheckpointInfo, CheckpointParts } from './training/checkpoint.js'
export type { RunConfiguration, TrainOptions } from './training/configuration.js'
export { evaluate } from './training/evaluate.js'
export type { EvaluateOptions } from './training/evaluate.js'
export { readEvaluation, writeEvaluation } from './training/evaluation.js'
export type {
  Evaluation,
  IndexRouterPicture,
  RouterPicture,
  SamplePrediction,
  SoftRouterPicture,
} from './training/evaluation.js'
export { evaluateRun } from './training/evaluate-run.js'
export type { EvaluateRunOptions, RunEvaluation } from './training/evaluate-run.js'
export { fewShotAccuracy } from './training/few-shot.js'
export type { FewShotOptions } from './training/few-shot.js'
export { train } from './training/fit.js'
export type { RunStart, TrainHooks, TrainResult } from './training/fit.js'
export { loadModel } from './training/load-model.js'
export type { LoadModelOptions, TrainedModel } from './training/load-model.js'
export { MetricsWriter, readMetrics } from './training/metrics.js'
export type {
  EvalRecord,
  LayerRouterMetrics,
  MetricsRecord,
  RouterRecord,
  TrainRecord,
} from './training/metrics.js'
export type { ModelChoice, ModelOptions, RouterChoice } from './training/model-choice.js'
export { classifyFiles, classifyPictures } from './training/predict.js'
export type { ClassProbability } from './training/predict.js'
export { writeReport } from './training/report.js'
export { SafetensorsFile, writeSafetensors } from './training/safetensors.js'
export type {
  SafetensorsEntry,
  SafetensorsShape,
  SafetensorsTensor,
  SafetensorsType,
} from './training/safetensors.js'
export { costModel, mlpCost, softMoeCost, softMoeExtraCost, sparseMoeCost } from './models/cost-model.js'
export type { Cost, ModelCost, MoELayerShape } from './models/cost-model.js'
export { loadParameters } from './models/load-parameters.js'
export type { LoadedParameters, LoadOptions } from './models/load-parameters.js'
export {
  sinkhornExpertsChoice,
  SinkhornExpertsChoiceRouter,
  sinkhornTokensChoice,
  SinkhornTokensChoiceRouter,
} from './routers/sinkhorn.js'
export type {
  SinkhornExpertsChoiceConfig,
  SinkhornExpertsChoiceOptions,
  SinkhornOptions,
  SinkhornTokensChoiceConfig,
  SinkhornTokensChoiceOptions,
} from './routers/sinkhorn.js'
export { softMetrics } from './routers/soft-statistics.js'
export type { SoftWeightShape, SoftWeightValues } from './routers/soft-statistics.js'
export * from './routers/sparse-statistics.js'
export { routerMetrics } from './routers/statistics.js'
export { SparseRouter } from './routers/sparse.js'
export type {
  RouterLogits,
  RouterScores,
  Selection,
  SparseRouterOptions,
  SparseRouting,
} from './routers/sparse.js'
export {
  sparsityConstrained,
  SparsityConstrainedRouter,
  sparsityConstrainedTokensChoice,
  SparsityConstrainedTokensChoiceRouter,
} from './routers/sparsity-constrained.js'
export type {
  SparsityConstrainedConfig,
  SparsityConstrainedOptions,
  SparsityConstrainedTokensChoiceConfig,
  SparsityConstrainedTokensChoiceOptions,
} from './routers/sparsity-constrained.js'
export { tokensChoice, TokensChoiceRouter } from './routers/tokens-choice.js'
export type { TokensChoiceConfig, TokensChoiceOptions } from './routers/tokens-choice.js'
