// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/thread_role.h"

namespace imagefs {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};

// When more lines are queued for stderr, the oldest are dropped.
constexpr size_t kMaxQueuedLines = 8192;

using LoggerRef = std::shared_ptr<spdlog::logger>;

// journald reads the priority from a "<N>" prefix (sd-daemon.h); elsewhere a timestamp is more
// useful.
LoggerRef Prepared(LoggerRef logger) {
  logger->set_pattern(std::getenv("JOURNAL_STREAM") != nullptr ? "%v" : "%Y-%m-%dT%H:%M:%S.%e %v");
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  return logger;
}

const std::shared_ptr<spdlog::sinks::stderr_sink_mt>& Sink() {
  static const auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  return sink;
}

spdlog::logger& DirectLogger() {
  static const LoggerRef logger = Prepared(std::make_shared<spdlog::logger>("imagefs", Sink()));
  return *logger;
}

std::atomic<spdlog::logger*> g_background{nullptr};

// Text from the network or the disk must not forge a second line.
std::string OneLine(std::string_view line) {
  std::string out(line);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return out;
}

}  // namespace

void SetLogLevel(LogLevel level) { g_level.store(level, std::memory_order_relaxed); }

bool LogEnabled(LogLevel level) {
  return level >= g_level.load(std::memory_order_relaxed) && level != LogLevel::kOff;
}

void LogLine(LogLevel level, std::string_view line) {
  static const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
  const char* prefix = "";
  switch (level) {
    case LogLevel::kDebug:
      prefix = journal ? "<7>" : "debug ";
      break;
    case LogLevel::kInfo:
      prefix = journal ? "<6>" : "info ";
      break;
    case LogLevel::kWarning:
      prefix = journal ? "<4>" : "warning ";
      break;
    case LogLevel::kError:
      prefix = journal ? "<3>" : "error ";
      break;
    case LogLevel::kOff:
      return;
  }
  spdlog::logger* const background = g_background.load(std::memory_order_acquire);
  spdlog::logger& logger = background != nullptr ? *background : DirectLogger();
  logger.log(spdlog::level::info, "{}{}", prefix, OneLine(line));
}

struct BackgroundLog::Writer {
  std::shared_ptr<spdlog::details::thread_pool> thread;
  LoggerRef logger;
};

BackgroundLog::BackgroundLog() : writer_(std::make_unique<Writer>()) {
  writer_->thread = std::make_shared<spdlog::details::thread_pool>(
      kMaxQueuedLines, 1, [] { EnterThread(ThreadRole::kLog); });
  writer_->logger = Prepared(std::make_shared<spdlog::async_logger>(
      "imagefs", Sink(), writer_->thread, spdlog::async_overflow_policy::overrun_oldest));
  g_background.store(writer_->logger.get(), std::memory_order_release);
}

BackgroundLog::~BackgroundLog() {
  g_background.store(nullptr, std::memory_order_release);
  const size_t lost = writer_->thread->overrun_counter();
  writer_->thread.reset();  // writes the queued lines
  if (lost > 0) LogWarning("log.lines_lost count=", lost);
}

std::string RedactUrl(std::string_view url) {
  url = url.substr(0, url.find_first_of("?#"));
  const size_t scheme = url.find("://");
  const size_t authority = scheme == std::string_view::npos ? 0 : scheme + 3;
  const size_t path = url.find('/', authority);
  const size_t at = url.substr(0, path).rfind('@');
  std::string redacted(url.substr(0, authority));
  redacted +=
      at == std::string_view::npos || at < authority ? url.substr(authority) : url.substr(at + 1);
  return redacted;
}

}  // namespace imagefs
