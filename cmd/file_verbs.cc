// SPDX-License-Identifier: Apache-2.0
// The verbs that read files of an image without a mount: cat, cp, ls-files, export and diff. The
// daemon streams entries and bytes; what becomes of them is decided here, with the caller's rights.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/file_entries.h"
#include "cmd/print.h"
#include "cmd/print_files.h"
#include "cmd/tree_writer.h"
#include "cmd/verb_handlers.h"
#include "image/pax_writer.h"

namespace imagefs {
namespace {

using namespace control::v1;  // NOLINT: the messages that are sent

// Says why output stopped; Output::Finish reports the reason.
absl::Status CannotPrint() { return absl::CancelledError("standard output cannot be written"); }

// Takes the entries and the bytes of a call in order.
class FileSink {
 public:
  virtual ~FileSink() = default;
  virtual absl::Status Add(const FileEntry& entry) = 0;
  virtual absl::Status Write(const FileData& data) = 0;
  // All have come.
  virtual absl::Status Finish() = 0;
};

// The bytes of files one after the other, for `cat`.
class ContentSink : public FileSink {
 public:
  explicit ContentSink(Output& out) : out_(out) {}
  absl::Status Add(const FileEntry& entry) override {
    IMAGEFS_RETURN_IF_ERROR(EndFile());
    announced_ = AnnouncedBytes(entry);
    size_ = entry.size();
    printed_ = 0;
    return absl::OkStatus();
  }
  absl::Status Write(const FileData& data) override {
    IMAGEFS_RETURN_IF_ERROR(announced_.Take(data));
    IMAGEFS_RETURN_IF_ERROR(PrintZeros(data.offset()));
    out_.Print(data.bytes());
    printed_ += data.bytes().size();
    return out_.failed() ? CannotPrint() : absl::OkStatus();
  }
  absl::Status Finish() override { return EndFile(); }

 private:
  absl::Status EndFile() {
    IMAGEFS_RETURN_IF_ERROR(announced_.CheckEnd());
    return PrintZeros(size_);
  }
  // Holes are zeros, as for any reader.
  absl::Status PrintZeros(uint64_t until) {
    const std::string zeros(std::min<uint64_t>(1 << 20, until - std::min(until, printed_)), '\0');
    while (printed_ < until) {
      const size_t size = std::min<uint64_t>(until - printed_, zeros.size());
      out_.Print(std::string_view(zeros).substr(0, size));
      if (out_.failed()) return CannotPrint();
      printed_ += size;
    }
    return absl::OkStatus();
  }

  Output& out_;
  AnnouncedBytes announced_;
  uint64_t size_ = 0, printed_ = 0;
};

// One tar, for `export` and for `cp` to standard output.
class TarSink : public FileSink {
 public:
  // `name`: under which the first entry is in the archive; "" = as its root.
  TarSink(Output& out, std::string name) : out_(out), name_(std::move(name)) {}
  absl::Status Add(const FileEntry& entry) override {
    IMAGEFS_RETURN_IF_ERROR(EndFile());
    if (!begun_) root_ = entry.path();
    begun_ = true;
    const PaxEntry pax =
        ToPaxEntry(entry, PathOf(entry.path()),
                   entry.hard_link_to().empty() ? "" : PathOf(entry.hard_link_to()));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string header, PaxHeader(pax));
    announced_ = AnnouncedBytes(entry);
    padding_ = PaxPadding(PaxDataBytes(pax));
    return Print(header);
  }
  absl::Status Write(const FileData& data) override {
    IMAGEFS_RETURN_IF_ERROR(announced_.Take(data));
    return Print(data.bytes());
  }
  // Without it, an archive does not look whole.
  absl::Status Finish() override {
    IMAGEFS_RETURN_IF_ERROR(EndFile());
    IMAGEFS_RETURN_IF_ERROR(Print(PaxEnd()));
    if (!buffer_.empty()) out_.Print(std::exchange(buffer_, ""));
    return out_.failed() ? CannotPrint() : absl::OkStatus();
  }

 private:
  std::string PathOf(const std::string& path) const {
    const size_t below = std::min(path.size(), root_ == "/" ? size_t{1} : root_.size() + 1);
    const std::string rest = path.substr(below);
    return StrCat(name_, name_.empty() || rest.empty() ? "" : "/", rest);
  }
  absl::Status EndFile() {
    IMAGEFS_RETURN_IF_ERROR(announced_.CheckEnd());
    return Print(std::exchange(padding_, ""));
  }
  // Small files are printed together.
  absl::Status Print(std::string_view text) {
    constexpr size_t kBufferBytes = 256 << 10;
    buffer_.append(text);
    if (buffer_.size() < kBufferBytes) return absl::OkStatus();
    out_.Print(buffer_);
    buffer_.clear();
    return out_.failed() ? CannotPrint() : absl::OkStatus();
  }

  Output& out_;
  const std::string name_;
  std::string root_, padding_, buffer_;
  AnnouncedBytes announced_;
  bool begun_ = false;
};

// The lines of `ls-files`.
class ListSink : public FileSink {
 public:
  ListSink(Output& out, FileLineOptions options) : out_(out), options_(options) {}
  absl::Status Add(const FileEntry& entry) override {
    out_.Print(out_.json() ? json_.Add(FileEntryJson(entry)) : FileLine(entry, options_));
    return out_.failed() ? CannotPrint() : absl::OkStatus();
  }
  absl::Status Write(const FileData&) override {
    return absl::DataLossError("the daemon sent bytes that nobody asked for");
  }
  absl::Status Finish() override {
    if (out_.json()) out_.Print(json_.End(""));
    return absl::OkStatus();
  }
  JsonList& json() { return json_; }

 private:
  Output& out_;
  const FileLineOptions options_;
  JsonList json_{"files"};
};

// A tree on the disk, for `cp`.
class TreeSink : public FileSink {
 public:
  explicit TreeSink(std::unique_ptr<TreeWriter> writer) : writer_(std::move(writer)) {}
  absl::Status Add(const FileEntry& entry) override { return writer_->Add(entry); }
  absl::Status Write(const FileData& data) override { return writer_->Write(data); }
  absl::Status Finish() override { return writer_->Finish(); }
  const TreeWriter& writer() const { return *writer_; }

 private:
  const std::unique_ptr<TreeWriter> writer_;
};

bool ShowsProgress(bool quiet) { return !quiet && isatty(STDERR_FILENO) != 0; }

// Runs the call, and passes what it gives to `sink`.
absl::Status StreamFiles(ClientSession& session, const FilesRequest& request, FileSink& sink) {
  IMAGEFS_ASSIGN_OR_RETURN(const auto client, session.Connect(/*start=*/true));
  const auto take = [&](const MountEvent& event) -> absl::Status {
    for (const FileItems::Item& item : event.files().items()) {
      IMAGEFS_RETURN_IF_ERROR(item.has_entry() ? sink.Add(item.entry()) : sink.Write(item.data()));
    }
    return absl::OkStatus();
  };
  const absl::StatusOr<MountResult> result =
      session.Transfer(*client, request, &DaemonClient::Files, take);
  IMAGEFS_RETURN_IF_ERROR(result.status());
  return sink.Finish();
}

absl::StatusOr<FilesRequest> MakeRequest(ClientSession& session, const std::string& reference,
                                         const ImageOptions& image, bool quiet) {
  FilesRequest request;
  IMAGEFS_ASSIGN_OR_RETURN(*request.mutable_image(), session.MakeImageRequest(reference, image));
  request.set_progress(ShowsProgress(quiet));
  return request;
}

// Returns the exit status. Output::Finish reports that standard output failed.
int End(ClientSession& session, const absl::Status& status, std::string_view object = "") {
  return session.out().failed() ? 1 : session.Finish(status, object);
}

// Output that is not text cannot be followed by an object that says what failed.
absl::Status CheckBinaryOutput(ClientSession& session, std::string_view what) {
  if (session.json()) {
    return absl::InvalidArgumentError(StrCat(what, " on standard output is no JSON; omit --json"));
  }
  return absl::OkStatus();
}

absl::Status CheckTarOutput(ClientSession& session) {
  IMAGEFS_RETURN_IF_ERROR(CheckBinaryOutput(session, "a tar"));
  if (isatty(STDOUT_FILENO) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "a tar is not for a terminal; redirect standard output into a file or a pipe");
}

int CopyToTar(ClientSession& session, const FilesRequest& request, const std::string& name) {
  const absl::Status status = CheckTarOutput(session);
  if (!status.ok()) return session.out().Fail(status);
  TarSink sink(session.out(), name);
  return End(session, StreamFiles(session, request, sink));
}

// Where a copy is written: by the rules of cp(1), as far as they do not depend on what is copied.
struct Target {
  std::string directory;   // exists
  std::string name;        // in it; "" = the directory itself
  bool is_file = false;    // something else than a directory is there
  bool needs_dir = false;  // the path ends with a slash, and nothing is there
};

absl::StatusOr<Target> FindTarget(const std::string& destination, const std::string& name) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string path, AbsolutePath(destination));
  struct stat found {};
  if (stat(destination.c_str(), &found) == 0 && S_ISDIR(found.st_mode)) {
    return Target{path, name, false, false};
  }
  const int error = errno;
  const bool exists = lstat(path.c_str(), &found) == 0;
  if (!exists && error != ENOENT) return ErrnoStatus(error, PrintableName(destination));
  if (exists && destination.ends_with('/')) {
    return ErrnoStatus(ENOTDIR, PrintableName(destination));
  }
  return Target{ParentOf(path), path.substr(path.rfind('/') + 1), exists,
                !exists && destination.ends_with('/')};
}

// Checks the first entry against what is at the target.
class CopySink : public TreeSink {
 public:
  CopySink(std::unique_ptr<TreeWriter> writer, Target target, std::string shown)
      : TreeSink(std::move(writer)), target_(std::move(target)), shown_(std::move(shown)) {}
  absl::Status Add(const FileEntry& entry) override {
    if (!std::exchange(begun_, true)) {
      const bool directory = S_ISDIR(entry.mode());
      if (directory && target_.is_file) {
        return absl::FailedPreconditionError(
            StrCat(PrintableName(shown_), ": exists and is not a directory"));
      }
      if (!directory && target_.needs_dir) return ErrnoStatus(ENOENT, PrintableName(shown_));
    }
    return TreeSink::Add(entry);
  }

 private:
  const Target target_;
  const std::string shown_;
  bool begun_ = false;
};

std::string NotKept(const TreeWriter& writer) {
  std::string text;
  for (const auto& [what, files] : writer.not_kept()) {
    StrAppend(&text, text.empty() ? "" : "; ", what, " of ", files,
              files == 1 ? " file" : " files");
  }
  return text;
}

std::string CopyJson(const std::string& destination, const TreeWriter& writer) {
  JsonWriter json(/*pretty=*/true);
  json.BeginObject()
      .Member("destination", destination)
      .Member("files", writer.files())
      .Member("bytes", writer.bytes())
      .Key("not_kept")
      .BeginArray();
  for (const auto& [what, files] : writer.not_kept()) {
    json.BeginObject().Member("what", what).Member("files", files).EndObject();
  }
  json.EndArray().EndObject();
  return json.Take() + "\n";
}

int CopyToDisk(ClientSession& session, const FilesRequest& request, const CopyArgs& args,
               const std::string& name) {
  absl::StatusOr<Target> target = FindTarget(args.destination, name);
  if (!target.ok()) return session.out().Fail(target.status());
  absl::StatusOr<Fd> directory = OpenFile(target->directory, O_RDONLY | O_DIRECTORY);
  if (!directory.ok()) return session.out().Fail(directory.status());
  const std::string destination =
      StrCat(target->directory, target->directory.ends_with('/') || target->name.empty() ? "" : "/",
             target->name);
  CopySink sink(
      std::make_unique<TreeWriter>(*std::move(directory), target->name, target->directory), *target,
      args.destination);
  const absl::Status status = StreamFiles(session, request, sink);
  if (!status.ok()) return End(session, status);
  if (session.json()) session.out().Print(CopyJson(destination, sink.writer()));
  if (const std::string lost = NotKept(sink.writer()); !lost.empty()) {
    session.out().Note(
        StrCat("imagefs: not kept: ", lost, IsMachineRoot() ? "" : "; root may keep them", "\n"));
  }
  return 0;
}

}  // namespace

int Run(ClientSession& session, const CatArgs& args) {
  absl::Status status = CheckBinaryOutput(session, "the content of a file");
  if (!status.ok()) return session.out().Fail(status);
  absl::StatusOr<FilesRequest> request =
      MakeRequest(session, args.reference, args.image, args.quiet);
  if (!request.ok()) return session.out().Fail(request.status());
  for (const std::string& path : args.paths) request->add_paths(path);
  request->set_follow(true);
  request->set_regular(true);
  request->set_content(true);
  request->set_eager(args.eager);
  ContentSink sink(session.out());
  return End(session, StreamFiles(session, *request, sink));
}

int Run(ClientSession& session, const CopyArgs& args) {
  const absl::StatusOr<ImagePath> source = SplitImagePath(args.source);
  if (!source.ok()) return session.out().Fail(source.status());
  absl::StatusOr<FilesRequest> request =
      MakeRequest(session, source->reference, args.image, args.quiet);
  if (!request.ok()) return session.out().Fail(request.status());
  request->add_paths(source->path);
  request->set_follow(args.follow);
  request->set_depth(UINT32_MAX);
  request->set_content(true);
  request->set_eager(args.eager);
  const std::string name = NameOfCopy(source->path);
  return args.destination == "-" ? CopyToTar(session, *request, name)
                                 : CopyToDisk(session, *request, args, name);
}

int Run(ClientSession& session, const ListFilesArgs& args) {
  absl::StatusOr<FilesRequest> request =
      MakeRequest(session, args.reference, args.image, args.quiet);
  if (!request.ok()) return session.out().Fail(request.status());
  request->add_paths(args.path);
  request->set_depth(args.depth < 0 ? UINT32_MAX : static_cast<uint32_t>(args.depth));
  request->set_layers(args.layer);
  request->set_eager(args.eager);
  FileLineOptions options;
  options.long_format = args.long_format;
  options.layer = args.layer;
  options.null = args.null;
  options.escape = !args.null && isatty(STDOUT_FILENO) != 0;
  ListSink sink(session.out(), options);
  const absl::Status status = StreamFiles(session, *request, sink);
  return End(session, status,
             session.json() && !status.ok() ? sink.json().EndWith(status) : std::string());
}

int Run(ClientSession& session, const ExportTreeArgs& args) {
  absl::StatusOr<FilesRequest> request =
      MakeRequest(session, args.reference, args.image, args.quiet);
  if (!request.ok()) return session.out().Fail(request.status());
  request->add_paths("/");
  request->set_depth(UINT32_MAX);
  request->set_content(true);
  // What a layer shows before it is proven lacks device nodes and attributes.
  request->set_eager(true);
  return CopyToTar(session, *request, "");
}

int Run(ClientSession& session, const DiffArgs& args) {
  DiffRequest request;
  absl::StatusOr<ImageRequest> before = session.MakeImageRequest(args.before, args.image);
  if (!before.ok()) return session.out().Fail(before.status());
  absl::StatusOr<ImageRequest> after = session.MakeImageRequest(args.after, args.image);
  if (!after.ok()) return session.out().Fail(after.status());
  *request.mutable_before() = *std::move(before);
  *request.mutable_after() = *std::move(after);
  request.set_progress(ShowsProgress(args.quiet));
  request.set_times(args.times);
  request.set_eager(args.eager);
  auto client = session.Connect(/*start=*/true);
  if (!client.ok()) return session.Finish(client.status());
  Output& out = session.out();
  JsonList json("changes");
  const bool escape = isatty(STDOUT_FILENO) != 0;
  bool different = false;
  const auto take = [&](const MountEvent& event) -> absl::Status {
    for (const FileChange& change : event.changes().changes()) {
      different = true;
      out.Print(out.json() ? json.Add(FileChangeJson(change)) : ChangeLine(change, escape));
    }
    return out.failed() ? CannotPrint() : absl::OkStatus();
  };
  const absl::StatusOr<MountResult> result =
      session.Transfer(**client, request, &DaemonClient::Diff, take);
  if (!result.ok()) {
    return End(session, result.status(),
               out.json() ? json.EndWith(result.status()) : std::string());
  }
  if (out.json()) {
    out.Print(json.End(
        StrCat(",\"privileges_compared\":", result->privileges_ignored() ? "false" : "true")));
  } else if (result->privileges_ignored()) {
    out.Note(
        "imagefs: device nodes, security.* and trusted.* attributes were not compared, since not "
        "every layer was fetched and verified; --eager compares them\n");
  }
  return different && args.exit_code ? 1 : 0;
}

}  // namespace imagefs
