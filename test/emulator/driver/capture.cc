#include "capture.h"

#include <algorithm>

namespace softmoe::emulator {
namespace {

void merge(CaptureClock& into, const CaptureClock& from) {
  for (const auto& [stream, position] : from) into[stream] = std::max(into[stream], position);
}

void requireValid(const Capture& capture) {
  require(!capture.invalidated, cuda::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
          "a forbidden call has spoilt the capture");
}

[[noreturn]] void spoil(Capture& capture, cuda::CUresult code, const char* why) {
  capture.invalidated = true;
  throw DriverError(code, why);
}

}  // namespace

void enqueue(Driver& driver, Stream& stream, const std::string& what, std::function<cuda::CUresult()> run) {
  if (stream.capture) {
    Capture& capture = *stream.capture;
    requireValid(capture);
    capture.graph->nodes.push_back({what, std::move(run)});
    ++capture.clocks[&stream][&stream];
    return;
  }
  if (stream.legacy) {
    for (const auto& capture : driver.captures)
      if (capture->graph->context == stream.context && capture->origin->blocksWithLegacy())
        spoil(*capture, cuda::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
              "the legacy stream would wait for a stream that is captured");
  }
  driver.executor.submit(stream, {what, std::move(run), {}, 0});
}

void forbidWhileCapturing(Driver& driver) {
  for (const auto& capture : driver.captures) {
    const bool mine = capture->thread == std::this_thread::get_id();
    if (capture->mode == cuda::CU_STREAM_CAPTURE_MODE_GLOBAL ||
        (capture->mode == cuda::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && mine))
      spoil(*capture, cuda::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not allowed while a stream is captured");
  }
}

void forbidWhileCaptured(Stream& stream) {
  if (!stream.capture) return;
  requireValid(*stream.capture);
  spoil(*stream.capture, cuda::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        "not allowed on a stream being captured");
}

void recordInCapture(Stream& stream, Event& event) {
  requireValid(*stream.capture);
  event.recorded = true;
  event.capture = stream.capture;
  event.clock = stream.capture->clocks[&stream];
}

void waitInCapture(Driver&, const std::shared_ptr<Stream>& stream, const Event& event) {
  if (!event.capture)
    spoil(*stream->capture, cuda::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
          "a captured stream cannot wait for work outside its capture");
  require(!event.capture->ended, cuda::CUDA_ERROR_CAPTURED_EVENT, "the event belongs to a finished capture");
  requireValid(*event.capture);
  require(!stream->capture || stream->capture == event.capture, cuda::CUDA_ERROR_STREAM_CAPTURE_MERGE,
          "the wait would join two captures");
  require(!stream->legacy, cuda::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream cannot be captured");
  stream->capture = event.capture;
  merge(stream->capture->clocks[stream.get()], event.clock);
}

void beginCapture(Driver& driver, Stream& stream, cuda::CUstreamCaptureMode mode) {
  require(!stream.legacy, cuda::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
          "the legacy stream cannot be captured");
  require(!stream.capture, cuda::CUDA_ERROR_ILLEGAL_STATE, "the stream is already captured");
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  capture->graph = std::make_shared<Graph>();
  capture->graph->context = stream.context;
  capture->clocks[&stream];
  stream.capture = capture;
  driver.captures.push_back(capture);
}

std::shared_ptr<Graph> endCapture(Driver& driver, Stream& stream) {
  const std::shared_ptr<Capture> capture = stream.capture;
  require(capture && capture->origin == &stream, cuda::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
          "no capture began on this stream");
  require(
      capture->mode == cuda::CU_STREAM_CAPTURE_MODE_RELAXED || capture->thread == std::this_thread::get_id(),
      cuda::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began on another thread");
  capture->ended = true;
  driver.captures.erase(std::find(driver.captures.begin(), driver.captures.end(), capture));
  for (const auto& [handle, other] : driver.streams.all())
    if (other->capture == capture) other->capture.reset();
  requireValid(*capture);
  CaptureClock& joined = capture->clocks[&stream];
  for (const auto& [other, clock] : capture->clocks) {
    const auto own = clock.find(other);
    const bool done = own == clock.end() || own->second == 0 || joined[other] >= own->second;
    require(done, cuda::CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
            "another stream took part in the capture and was not waited for at its end");
  }
  return capture->graph;
}

}  // namespace softmoe::emulator
