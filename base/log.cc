// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <spdlog/async.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "base/log_context.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};

// When more lines are queued for stderr, the oldest are dropped.
constexpr size_t kMaxQueuedLines = 8192;

using LoggerRef = std::shared_ptr<spdlog::logger>;

constexpr std::pair<LogLevel, spdlog::level::level_enum> kLevels[] = {
    {LogLevel::kDebug, spdlog::level::debug},
    {LogLevel::kInfo, spdlog::level::info},
    {LogLevel::kWarning, spdlog::level::warn},
    {LogLevel::kError, spdlog::level::err},
};

// journald reads the priority from a "<N>" prefix (sd-daemon.h); elsewhere a timestamp is more
// useful.
LoggerRef Prepared(LoggerRef logger) {
  logger->set_pattern(std::getenv("JOURNAL_STREAM") != nullptr ? "%v" : "%Y-%m-%dT%H:%M:%S.%e %v");
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  return logger;
}

std::string PrefixOf(LogLevel level) {
  static const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
  if (journal) return StrCat("<", SyslogPriority(level), ">");
  constexpr std::string_view kNames[] = {"debug ", "info ", "warning ", "error "};
  return std::string(kNames[static_cast<size_t>(level)]);
}

// Gives lines to the background log's writer.
class WriterSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  explicit WriterSink(BackgroundLog::Write write) : write_(std::move(write)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    for (const auto& [level, theirs] : kLevels) {
      if (theirs == message.level) {
        write_(level, std::string(message.payload.data(), message.payload.size()));
      }
    }
  }
  void flush_() override {}

  const BackgroundLog::Write write_;
};

const std::shared_ptr<spdlog::sinks::stderr_sink_mt>& Sink() {
  static const auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  return sink;
}

spdlog::logger& DirectLogger() {
  static const LoggerRef logger = Prepared(std::make_shared<spdlog::logger>("imagefs", Sink()));
  return *logger;
}

std::atomic<spdlog::logger*> g_background{nullptr};
std::atomic<bool> g_has_writer{false};

// Text from the network or the disk must not forge a second line.
std::string OneLine(std::string_view line) {
  std::string out(line);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return out;
}

// Returns where " key=" begins in the text, and the end of it; npos if it does not. The space may
// be missing at the start of a line.
std::pair<size_t, size_t> FindKey(std::string_view text, bool at_start) {
  for (size_t equals = text.find('='); equals != text.npos; equals = text.find('=', equals + 1)) {
    size_t word = equals;
    while (word > 0 && (std::islower(static_cast<unsigned char>(text[word - 1])) != 0 ||
                        std::isdigit(static_cast<unsigned char>(text[word - 1])) != 0 ||
                        text[word - 1] == '_')) {
      --word;
    }
    if (word == equals) continue;
    if (word > 0 && text[word - 1] == ' ') return {word - 1, equals + 1};
    if (word == 0 && at_start) return {0, equals + 1};
  }
  return {std::string_view::npos, 0};
}

bool NeedsQuotes(std::string_view value) {
  return value.empty() || value.find_first_of(" \"=\\") != value.npos;
}

std::string Quoted(std::string_view value) {
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

}  // namespace

void LogText::Literal(std::string_view text) {
  while (true) {
    const auto [begin, end] = FindKey(text, out_.empty() && value_.empty());
    if (begin == text.npos) return Value(text);
    Value(text.substr(0, begin));
    EndValue();
    out_ += text.substr(begin, end - begin);
    in_value_ = true;
    text.remove_prefix(end);
  }
}

void LogText::EndValue() {
  if (!in_value_) return;
  const std::string value = OneLine(value_);
  out_ += NeedsQuotes(value) ? Quoted(value) : value;
  value_.clear();
  in_value_ = false;
}

void LogText::Pair(std::string_view key, std::string_view value) {
  EndValue();
  out_ += ' ';
  out_ += key;
  out_ += '=';
  value_ = value;
  in_value_ = true;
}

std::string LogText::Take() {
  EndValue();
  return std::move(out_);
}

std::vector<std::pair<std::string, std::string>> ParseLogLine(std::string_view line) {
  std::vector<std::pair<std::string, std::string>> fields;
  const auto [event_end, ignored] = FindKey(line, true);
  fields.emplace_back("", line.substr(0, event_end));
  line.remove_prefix(std::min(event_end, line.size()));
  while (true) {
    const auto [begin, end] = FindKey(line, true);
    if (begin != 0) return fields;
    const size_t key = line[0] == ' ' ? 1 : 0;
    std::string value;
    size_t at = end;
    const bool quoted = at < line.size() && line[at] == '"';
    if (quoted) ++at;
    for (; at < line.size() && line[at] != (quoted ? '"' : ' '); ++at) {
      if (quoted && line[at] == '\\' && at + 1 < line.size()) ++at;
      value += line[at];
    }
    if (quoted && at < line.size()) ++at;
    fields.emplace_back(line.substr(key, end - 1 - key), std::move(value));
    line.remove_prefix(at);
  }
}

void SetLogLevel(LogLevel level) { g_level.store(level, std::memory_order_relaxed); }

LogLevel CurrentLogLevel() { return g_level.load(std::memory_order_relaxed); }

int SyslogPriority(LogLevel level) {
  constexpr int kPriorities[] = {7, 6, 4, 3};  // LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERR
  return kPriorities[static_cast<size_t>(level)];
}

bool LogEnabled(LogLevel level) {
  return level >= g_level.load(std::memory_order_relaxed) && level != LogLevel::kOff;
}

void LogLine(LogLevel level, std::string_view line) {
  for (const auto& [ours, theirs] : kLevels) {
    if (ours != level) continue;
    spdlog::logger* const background = g_background.load(std::memory_order_acquire);
    spdlog::logger& logger = background != nullptr ? *background : DirectLogger();
    const bool plain = background != nullptr && g_has_writer.load(std::memory_order_acquire);
    logger.log(theirs, "{}{}{}", plain ? "" : PrefixOf(ours), OneLine(line),
               LogContext::Current().text());
  }
}

struct BackgroundLog::Writer {
  std::shared_ptr<spdlog::details::thread_pool> thread;
  LoggerRef logger;
};

BackgroundLog::BackgroundLog(Write write) : writer_(std::make_unique<Writer>()) {
  const bool has_writer = write != nullptr;
  spdlog::sink_ptr sink = Sink();
  if (has_writer) sink = std::make_shared<WriterSink>(std::move(write));
  writer_->thread = std::make_shared<spdlog::details::thread_pool>(
      kMaxQueuedLines, 1, [] { EnterThread(ThreadRole::kLog); });
  writer_->logger = Prepared(std::make_shared<spdlog::async_logger>(
      "imagefs", std::move(sink), writer_->thread, spdlog::async_overflow_policy::overrun_oldest));
  g_has_writer.store(has_writer, std::memory_order_release);
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
