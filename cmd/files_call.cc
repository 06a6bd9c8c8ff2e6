// SPDX-License-Identifier: Apache-2.0
// Files: open the image, find the paths, and stream their entries and bytes.
#include <sys/stat.h>

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/file_call.h"
#include "fs/image_files.h"

namespace imagefs {
namespace {

using control::v1::FileEntry;
using control::v1::FileItems;
using control::v1::MountEvent;

constexpr int kMaxPaths = 10'000;
// What an entry takes in a message, apart from its names and attributes; roughly.
constexpr size_t kEntryBytes = 80;

class FilesCall : public FileCall {
 public:
  FilesCall(const CallContext& context, grpc::CallbackServerContext* call,
            const control::v1::FilesRequest& request)
      : FileCall(context, call, "files", request.progress()), request_(request) {}

 private:
  absl::Status Run() override;
  absl::Status FindPaths();
  // Fills a message and sends it, until everything is sent. `pins`: of the next piece of the file
  // that is being read.
  absl::Status Step(Pins pins);
  // Adds the next entry. Returns false if there is none.
  absl::StatusOr<bool> AddEntry(FileItems* items, size_t* bytes);
  absl::Status FillEntry(const FileWalk::Entry& from, FileEntry* out);
  absl::Status BeginFile(const FileWalk::Entry& from, FileEntry* out);
  std::string Named(const std::string& path) const {
    return StrCat(image_->reference, ": ", PrintableName(path));
  }

  // A regular file whose bytes are being sent.
  struct OpenFile {
    Nid nid = 0;
    std::string path;
    std::vector<ByteRange> left;  // last first
  };

  const control::v1::FilesRequest& request_;  // gRPC keeps it until the call is done
  ImageRef image_;
  ChainRef chain_;
  std::vector<FoundFile> paths_;
  size_t next_path_ = 0;
  std::optional<FileWalk> walk_;
  std::optional<OpenFile> file_;
  std::optional<LayerFinder> layers_;
  // The first path of each file with several names.
  absl::flat_hash_map<Nid, std::string> first_names_;
};

absl::Status FilesCall::Run() {
  if (request_.paths().empty() || request_.paths_size() > kMaxPaths) {
    return absl::InvalidArgumentError("the request has no paths, or too many");
  }
  return OpenImage(request_.image(), request_.eager(), /*first=*/true, [this](Opened opened) {
    image_ = std::move(opened.image);
    chain_ = std::move(opened.chain);
    if (request_.layers()) layers_.emplace(*chain_);
    // Every error in a path is found before anything is sent.
    IMAGEFS_RETURN_IF_ERROR(Annotate(FindPaths(), image_->reference));
    return Step(std::nullopt);
  });
}

absl::Status FilesCall::FindPaths() {
  for (const std::string& path : request_.paths()) {
    IMAGEFS_ASSIGN_OR_RETURN(FoundFile found, FindFile(*chain_->index, path, request_.follow()));
    if (request_.regular()) {
      IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, chain_->index->GetStat(found.nid));
      if (!S_ISREG(stat.mode)) {
        return absl::FailedPreconditionError(
            StrCat(PrintableName(path), S_ISDIR(stat.mode)
                                            ? ": is a directory; imagefs cp copies directories"
                                            : ": is not a regular file"));
      }
    }
    paths_.push_back(std::move(found));
  }
  return absl::OkStatus();
}

absl::Status FilesCall::Step(Pins pins) {
  MountEvent event;
  FileItems* const items = event.mutable_files();
  size_t bytes = 0;
  while (bytes < kFileMessageBytes) {
    if (!file_.has_value()) {
      IMAGEFS_ASSIGN_OR_RETURN(const bool more, AddEntry(items, &bytes));
      if (more) continue;
      if (bytes == 0) return Succeed(MakeResult(*image_));
      break;
    }
    ByteRange& range = file_->left.back();
    const size_t size = std::min<uint64_t>(range.size(), kFileMessageBytes - bytes);
    if (!pins.has_value()) {
      IMAGEFS_ASSIGN_OR_RETURN(const auto missing,
                               MissingParts(*chain_, file_->nid, range.begin, size));
      // What is ready does not wait for what is not. Afterwards, the same piece comes next.
      if (!missing.empty() && bytes > 0) break;
      if (!missing.empty()) {
        return AwaitParts(missing, Named(file_->path), [this](std::vector<ReadPin> arrived) {
          return Step(std::move(arrived));
        });
      }
    }
    control::v1::FileData* const data = items->add_items()->mutable_data();
    data->set_offset(range.begin);
    data->mutable_bytes()->resize(size);
    IMAGEFS_RETURN_IF_ERROR(Annotate(ReadFile(*chain_, file_->nid, range.begin,
                                              {data->mutable_bytes()->data(), size}, SpanOf(pins)),
                                     Named(file_->path)));
    pins.reset();
    bytes += size;
    range.begin += size;
    if (range.empty()) file_->left.pop_back();
    if (file_->left.empty()) file_.reset();
  }
  return Send(std::move(event), [this] { return Step(std::nullopt); });
}

absl::StatusOr<bool> FilesCall::AddEntry(FileItems* items, size_t* bytes) {
  while (true) {
    if (!walk_.has_value()) {
      if (next_path_ == paths_.size()) return false;
      walk_.emplace(*chain_->index, paths_[next_path_++], request_.depth());
    }
    absl::StatusOr<std::optional<FileWalk::Entry>> entry = walk_->Next();
    if (!entry.ok()) return Annotate(entry.status(), image_->reference);
    if (!entry->has_value()) {
      walk_.reset();
      continue;
    }
    FileEntry* const out = items->add_items()->mutable_entry();
    IMAGEFS_RETURN_IF_ERROR(Annotate(FillEntry(**entry, out), Named((*entry)->path)));
    *bytes += kEntryBytes + out->ByteSizeLong();
    return true;
  }
}

absl::Status FilesCall::FillEntry(const FileWalk::Entry& from, FileEntry* out) {
  const ErofsImage::Stat& stat = from.stat;
  out->set_path(from.path);
  out->set_mode(stat.mode);
  out->set_uid(stat.uid);
  out->set_gid(stat.gid);
  if (S_ISREG(stat.mode)) out->set_size(stat.size);
  out->set_mtime_seconds(stat.mtime_seconds);
  out->set_mtime_nanoseconds(stat.mtime_nanoseconds);
  out->set_rdev_major(stat.rdev_major);
  out->set_rdev_minor(stat.rdev_minor);
  out->set_links(stat.nlink);
  if (S_ISLNK(stat.mode)) {
    IMAGEFS_ASSIGN_OR_RETURN(*out->mutable_target(), chain_->index->Readlink(stat.nid));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<Xattr> xattrs, FileXattrs(*chain_, stat.nid));
  for (const Xattr& xattr : xattrs) {
    FileEntry::Xattr* const one = out->add_xattrs();
    one->set_name(xattr.name);
    one->set_value(xattr.value);
  }
  if (layers_.has_value()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Layer* const layer, layers_->Find(from));
    if (layer != nullptr) out->set_layer(layer->diff_id.ToString());
  }
  if (request_.depth() > 0 && stat.nlink > 1 && !S_ISDIR(stat.mode)) {
    const auto [first, is_first] = first_names_.emplace(stat.nid, from.path);
    if (!is_first) {
      out->set_hard_link_to(first->second);
      return absl::OkStatus();
    }
  }
  return request_.content() && S_ISREG(stat.mode) ? BeginFile(from, out) : absl::OkStatus();
}

absl::Status FilesCall::BeginFile(const FileWalk::Entry& from, FileEntry* out) {
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<ByteRange> ranges, DataRanges(*chain_->index, from.stat));
  const bool whole = from.stat.size == 0 || (ranges.size() == 1 && ranges[0].begin == 0 &&
                                             ranges[0].end == from.stat.size);
  if (!whole) {
    out->set_sparse(true);
    for (const ByteRange& range : ranges) {
      FileEntry::Range* const one = out->add_data();
      one->set_begin(range.begin);
      one->set_end(range.end);
    }
  }
  if (ranges.empty()) return absl::OkStatus();
  std::reverse(ranges.begin(), ranges.end());
  file_ = OpenFile{from.stat.nid, from.path, std::move(ranges)};
  return absl::OkStatus();
}

}  // namespace

MountEventReactor* StartFiles(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::FilesRequest& request) {
  return TransferCall::Start(std::make_shared<FilesCall>(context, call, request));
}

}  // namespace imagefs
