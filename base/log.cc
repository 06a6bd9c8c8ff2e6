#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>

namespace imagefs {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};

// journald reads the priority from a "<N>" prefix (sd-daemon.h); elsewhere a time stamp helps more.
spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>("imagefs",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern(std::getenv("JOURNAL_STREAM") != nullptr ? "%v" : "%Y-%m-%dT%H:%M:%S.%e %v");
    made->set_level(spdlog::level::trace);
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

// Text out of the network or the disk must not make a second line of its own.
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
  Logger().log(spdlog::level::info, "{}{}", prefix, OneLine(line));
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
