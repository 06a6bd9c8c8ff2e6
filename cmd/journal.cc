// SPDX-License-Identifier: Apache-2.0
#include "cmd/journal.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxKeyBytes = 40;  // the journal allows 64 with the prefix

std::string FieldName(std::string_view key) {
  std::string name = "IMAGEFS_";
  for (const char c : key.substr(0, kMaxKeyBytes)) {
    name += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

void WriteToJournal(LogLevel level, const std::string& line) {
  std::vector<std::string> fields = {StrCat("MESSAGE=", line),
                                     StrCat("PRIORITY=", SyslogPriority(level)),
                                     "SYSLOG_IDENTIFIER=imagefsd"};
  for (const auto& [key, value] : ParseLogLine(line)) {
    if (key.empty()) {
      fields.push_back(StrCat("IMAGEFS_EVENT=", value));
      fields.push_back(StrCat("MESSAGE_ID=", MessageIdOf(value)));
    } else {
      fields.push_back(StrCat(FieldName(key), "=", value));
    }
  }
  std::vector<iovec> parts;
  for (std::string& field : fields) parts.push_back({field.data(), field.size()});
  if (sd_journal_sendv(parts.data(), static_cast<int>(parts.size())) >= 0) return;
  // The journal reads stderr, too.
  const std::string plain = StrCat("<", SyslogPriority(level), ">", line, "\n");
  (void)!write(STDERR_FILENO, plain.data(), plain.size());
}

}  // namespace

std::string MessageIdOf(std::string_view event) {
  return Sha256Of(StrCat("imagefs event ", event)).hex().substr(0, 32);
}

BackgroundLog::Write JournalWriter() {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat st;
  if (stream == nullptr || fstat(STDERR_FILENO, &st) != 0) return nullptr;
  if (StrCat(st.st_dev, ":", st.st_ino) != stream) return nullptr;
  return WriteToJournal;
}

}  // namespace imagefs
