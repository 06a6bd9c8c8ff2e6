// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse_ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <optional>
#include <string_view>

#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "fs/chain_read.h"
#include "fs/tree_xattrs.h"

namespace imagefs {
namespace {

// About 31 years: practically forever, and far from any overflow in the kernel's jiffies or
// libfuse's conversion.
constexpr double kForever = 1e9;
constexpr size_t kNameMax = 255;
constexpr unsigned kMaxBackground = 32'768;  // requests; 16 bits in the protocol
constexpr uint64_t kBlockSize = 4096;

thread_local FuseWorkerContext* current_worker = nullptr;

FuseServed& ServedOf(fuse_req_t req) { return *static_cast<FuseServed*>(fuse_req_userdata(req)); }
FuseTree& TreeOf(fuse_req_t req) { return static_cast<FuseTree&>(ServedOf(req)); }
DataFiles& FilesOf(fuse_req_t req) { return *static_cast<FuseData&>(ServedOf(req)).files; }

Nid ToNid(const FuseTree& tree, fuse_ino_t node) {
  return node == FUSE_ROOT_ID ? tree.index().root() : node;
}

fuse_ino_t ToNode(const FuseTree& tree, Nid nid) {
  return nid == tree.index().root() ? FUSE_ROOT_ID : nid;
}

void ReplyError(fuse_req_t req, int error_number) {
  if (error_number == EIO) FuseWorkerContext::Count(current_worker->errors);
  fuse_reply_err(req, error_number);
}

// To readers of the mount, a damaged index and an unreadable data file look the same.
void ReplyStatus(fuse_req_t req, const absl::Status& status) {
  if (status.code() == absl::StatusCode::kDataLoss) {
    LogError("index_damaged chain=", TreeOf(req).chain->chain_id.Short(),
             " error=", status.message());
  }
  ReplyError(req, StatusToErrno(status));
}

struct stat ToStat(const FuseTree& tree, const ErofsImage::Stat& from) {
  struct stat to = {};
  to.st_ino = from.nid;
  to.st_mode = from.mode;
  to.st_nlink = from.nlink;
  to.st_uid = from.uid;
  to.st_gid = from.gid;
  to.st_rdev = makedev(from.rdev_major, from.rdev_minor);
  to.st_size = static_cast<off_t>(from.size);
  to.st_blksize = kBlockSize;
  // Symbolic links and devices use no blocks, as on most file systems; holes are counted.
  if (S_ISREG(from.mode) || S_ISDIR(from.mode)) {
    to.st_blocks = static_cast<blkcnt_t>((from.size + 511) / 512);
  }
  to.st_mtim.tv_sec = from.mtime_seconds;
  to.st_mtim.tv_nsec = from.mtime_nanoseconds;
  to.st_atim = to.st_mtim;
  to.st_ctim = to.st_mtim;
  tree.shown_as.ApplyTo(&to);
  return to;
}

// An ACL of the image says nothing about files that are shown as another user's.
bool IsHidden(const FuseTree& tree, std::string_view name) {
  return IsHiddenXattr(tree.overlay_form, name) ||
         (tree.shown_as.any() && name.starts_with("system.posix_acl_"));
}

absl::StatusOr<fuse_entry_param> ToEntry(const FuseTree& tree, Nid nid) {
  IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat found, tree.index().GetStat(nid));
  fuse_entry_param entry = {};
  entry.ino = ToNode(tree, nid);
  entry.attr = ToStat(tree, found);
  entry.attr_timeout = kForever;
  entry.entry_timeout = kForever;
  return entry;
}

void Init(void* served, fuse_conn_info* conn) {
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_READDIRPLUS |
                    FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO | FUSE_CAP_NO_OPEN_SUPPORT |
                    FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_PARALLEL_DIROPS |
                    FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA;
  if (static_cast<const FuseServed*>(served)->has_acls) wanted |= FUSE_CAP_POSIX_ACL;
  // Replaces libfuse's defaults, which assume a changing tree (FUSE_CAP_AUTO_INVAL_DATA).
  conn->want = conn->capable & wanted;
  // The kernel uses the smaller of this and the mount's read_ahead_kb, which root may have raised
  // before this reply; libfuse's own value would reset it to the default.
  conn->max_readahead = std::max(conn->max_readahead, kFuseReadAheadBytes);
  // In kernel mode, readahead of all layers shares one connection and waits as long as its bytes
  // take. A low limit, like the kernel's default of 12, would let slow layers block the others.
  conn->max_background = kMaxBackground;
  conn->congestion_threshold = kMaxBackground / 4 * 3;
  conn->time_gran = 1;
}

void Lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseWorkerContext::Count(current_worker->lookups);
  const FuseTree& tree = TreeOf(req);
  const std::string_view wanted(name);
  if (wanted.size() > kNameMax) return ReplyError(req, ENAMETOOLONG);
  std::optional<Nid> nid = ToNid(tree, parent);
  // "." means the node itself, of any type; NFS servers resolve file handles this way.
  if (wanted != ".") {
    auto found = tree.index().Lookup(*nid, wanted);
    if (absl::IsFailedPrecondition(found.status())) return ReplyError(req, ENOTDIR);
    if (!found.ok()) return ReplyStatus(req, found.status());
    nid = *found;
  }
  if (!nid) {
    fuse_entry_param absent = {};
    absent.entry_timeout = kForever;
    fuse_reply_entry(req, &absent);
    return;
  }
  auto entry = ToEntry(tree, *nid);
  if (!entry.ok()) return ReplyStatus(req, entry.status());
  fuse_reply_entry(req, &*entry);
}

void GetAttr(fuse_req_t req, fuse_ino_t node, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->getattrs);
  const FuseTree& tree = TreeOf(req);
  auto found = tree.index().GetStat(ToNid(tree, node));
  if (!found.ok()) return ReplyStatus(req, found.status());
  const struct stat attributes = ToStat(tree, *found);
  fuse_reply_attr(req, &attributes, kForever);
}

void ReadLink(fuse_req_t req, fuse_ino_t node) {
  const FuseTree& tree = TreeOf(req);
  auto target = tree.index().Readlink(ToNid(tree, node));
  if (!target.ok()) return ReplyStatus(req, target.status());
  fuse_reply_readlink(req, target->c_str());
}

// A read that waits for bytes. It lives until it is answered, which is when every part has arrived,
// failed or been cancelled by an interrupt.
class PendingRead : public std::enable_shared_from_this<PendingRead> {
 public:
  // Fills a buffer of `size` bytes once all parts are local, with the given pins.
  using Fill = std::function<absl::Status(absl::Span<char>, absl::Span<const ReadPin>)>;
  PendingRead(fuse_req_t req, size_t size, Fill fill)
      : session_(current_worker->session),
        req_(req),
        reader_(static_cast<ReaderId>(fuse_req_ctx(req)->pid)),
        size_(size),
        fill_(std::move(fill)) {}

  void Start(const std::vector<std::pair<LayerRef, ByteRange>>& missing) {
    fuse_req_interrupt_func(req_, &PendingRead::Interrupt, this);
    EnsureParts(missing, reader_, cancel_.token(),
                [self = shared_from_this()](absl::StatusOr<std::vector<ReadPin>> pins) {
                  self->Arrived(std::move(pins));
                });
  }

 private:
  // libfuse holds the request's lock during this call, so the object is alive.
  static void Interrupt(fuse_req_t, void* data) {
    const std::shared_ptr<PendingRead> self = static_cast<PendingRead*>(data)->shared_from_this();
    interrupting_ = self.get();
    self->cancel_.Cancel();
    interrupting_ = nullptr;
  }

  void Arrived(absl::StatusOr<std::vector<ReadPin>> pins) {
    // Returns once no further interrupt can arrive. Skipped within an interrupt, which excludes
    // others.
    if (interrupting_ != this) fuse_req_interrupt_func(req_, nullptr, nullptr);
    if (cancel_.token().cancelled()) return void(fuse_reply_err(req_, EINTR));
    const auto buffer = std::make_unique_for_overwrite<char[]>(size_);
    absl::Status status = pins.status();
    if (status.ok()) status = fill_({buffer.get(), size_}, *pins);
    if (!status.ok()) {
      // Leave it unanswered: the kernel sends it to the next process.
      if (ServedOf(req_).leaving.load(std::memory_order_acquire)) return fuse_reply_none(req_);
      LogWarning("read_failed error=", status.message());
      return void(fuse_reply_err(req_, EIO));
    }
    fuse_reply_buf(req_, buffer.get(), size_);
  }

  static thread_local const PendingRead* interrupting_;

  const std::shared_ptr<void> session_;
  const fuse_req_t req_;
  const ReaderId reader_;
  const size_t size_;
  const Fill fill_;
  CancelSource cancel_;
};

thread_local const PendingRead* PendingRead::interrupting_ = nullptr;

void Read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->reads);
  FuseTree& tree = TreeOf(req);
  const Nid nid = ToNid(tree, node);
  auto found = tree.index().GetStat(nid);
  if (!found.ok()) return ReplyStatus(req, found.status());
  if (S_ISDIR(found->mode)) return ReplyError(req, EISDIR);
  if (!S_ISREG(found->mode) || offset < 0) return ReplyError(req, EINVAL);
  const uint64_t begin = static_cast<uint64_t>(offset);
  if (begin >= found->size) {
    fuse_reply_buf(req, nullptr, 0);
    return;
  }
  const size_t part =
      std::min<uint64_t>(std::min<uint64_t>(size, kFuseReplyBytes), found->size - begin);
  FuseWorkerContext::Count(current_worker->read_bytes, part);
  auto missing = MissingParts(*tree.chain, nid, begin, part);
  if (!missing.ok()) return ReplyStatus(req, missing.status());
  const auto fill = [&tree, nid, begin](absl::Span<char> out, absl::Span<const ReadPin> pins) {
    absl::Status status = ReadFile(*tree.chain, nid, begin, out, pins);
    if (status.ok()) return status;
    const uint64_t failures = tree.failed_reads.fetch_add(1, std::memory_order_relaxed) + 1;
    if (std::has_single_bit(failures)) {
      LogError("read_failed chain=", tree.chain->chain_id.Short(), " nid=", nid, " offset=", begin,
               " failures=", failures, " error=", status.message());
    }
    return status;
  };
  if (!missing->empty()) {
    return std::make_shared<PendingRead>(req, part, fill)->Start(*missing);
  }
  char* buffer = current_worker->reply.get();
  if (!fill({buffer, part}, {}).ok()) return ReplyError(req, EIO);
  fuse_reply_buf(req, buffer, part);
}

// Appends one directory entry. Returns false if it does not fit.
bool AppendEntry(fuse_req_t req, const FuseTree& tree, const ErofsImage::DirentView& found,
                 bool plus, absl::Span<char> buffer, size_t& used) {
  char name[kNameMax + 1];  // the mapped name has no terminator
  memcpy(name, found.name.data(), found.name.size());
  name[found.name.size()] = '\0';
  char* out = buffer.data() + used;
  const size_t room = buffer.size() - used;
  const off_t next = static_cast<off_t>(found.next);
  size_t needed = 0;
  if (!plus) {
    struct stat attributes = {};
    attributes.st_ino = found.nid;
    attributes.st_mode = DTTOIF(found.type);
    needed = fuse_add_direntry(req, out, room, name, &attributes, next);
  } else {
    // Node 0 means "no attributes". Used for the two dots, which the kernel already knows, and for
    // a damaged inode: its name is listed, and its lookup fails.
    fuse_entry_param entry = {};
    const bool dots = found.name == "." || found.name == "..";
    if (auto full = dots ? absl::NotFoundError("") : ToEntry(tree, found.nid); full.ok()) {
      entry = *full;
    } else {
      entry.attr.st_ino = found.nid;
      entry.attr.st_mode = DTTOIF(found.type);
    }
    needed = fuse_add_direntry_plus(req, out, room, name, &entry, next);
  }
  if (needed > room) return false;
  used += needed;
  return true;
}

void ReadDirectory(fuse_req_t req, fuse_ino_t node, size_t size, off_t position, bool plus) {
  FuseWorkerContext::Count(current_worker->readdirs);
  const FuseTree& tree = TreeOf(req);
  const absl::Span<char> buffer(current_worker->reply.get(), std::min(size, kFuseReplyBytes));
  size_t used = 0;
  bool full = false;
  bool damaged = false;
  const absl::Status status = tree.index().ReadDir(
      ToNid(tree, node), static_cast<uint64_t>(position), [&](const ErofsImage::DirentView& found) {
        damaged = found.name.empty() || found.name.size() > kNameMax;
        full = !damaged && !AppendEntry(req, tree, found, plus, buffer, used);
        return !full && !damaged;
      });
  if (absl::IsFailedPrecondition(status)) return ReplyError(req, ENOTDIR);
  // Return the entries before the damage; the next request then starts at the damage and fails. If
  // the index file was truncated, none of the entries can be trusted.
  if (used == 0 || tree.index().damaged()) {
    if (!status.ok()) return ReplyStatus(req, status);
    if (damaged) return ReplyError(req, EIO);
    if (full) return ReplyError(req, EINVAL);
  }
  fuse_reply_buf(req, buffer.data(), used);
}

void ReadDir(fuse_req_t req, fuse_ino_t node, size_t size, off_t position, fuse_file_info*) {
  ReadDirectory(req, node, size, position, false);
}

void ReadDirPlus(fuse_req_t req, fuse_ino_t node, size_t size, off_t position, fuse_file_info*) {
  ReadDirectory(req, node, size, position, true);
}

void StatFs(fuse_req_t req, fuse_ino_t) {
  const FuseTree& tree = TreeOf(req);
  uint64_t bytes = 0;
  for (const LayerRef& layer : tree.chain->layers) bytes += layer->data_bytes;
  struct statvfs answer = {};
  answer.f_bsize = kBlockSize;
  answer.f_frsize = kBlockSize;
  answer.f_blocks = (bytes + kBlockSize - 1) / kBlockSize;
  answer.f_files = tree.index().inode_count();
  answer.f_namemax = kNameMax;
  answer.f_flag = ST_RDONLY;
  fuse_reply_statfs(req, &answer);
}

// Replies as xattr(7) specifies: size 0 asks for the size.
void ReplyXattr(fuse_req_t req, std::string_view value, size_t size) {
  if (size == 0) {
    fuse_reply_xattr(req, value.size());
  } else if (size < value.size()) {
    ReplyError(req, ERANGE);
  } else {
    fuse_reply_buf(req, value.data(), value.size());
  }
}

void GetXattr(fuse_req_t req, fuse_ino_t node, const char* name, size_t size) {
  FuseWorkerContext::Count(current_worker->xattr_requests);
  const FuseTree& tree = TreeOf(req);
  if (node == FUSE_ROOT_ID) {
    if (const std::optional<std::string> about = ImageXattr(*tree.chain, name); about.has_value()) {
      return ReplyXattr(req, *about, size);
    }
  }
  // After ENOSYS the kernel never asks again, not even for the root's own attributes.
  if (!tree.index().has_xattrs()) return ReplyError(req, tree.chain->complete() ? ENOSYS : ENODATA);
  if (IsHidden(tree, name)) return ReplyError(req, ENODATA);
  auto value = tree.index().GetXattr(ToNid(tree, node), name);
  if (!value.ok()) return ReplyStatus(req, value.status());
  if (!*value) return ReplyError(req, ENODATA);
  ReplyXattr(req, **value, size);
}

void ListXattr(fuse_req_t req, fuse_ino_t node, size_t size) {
  FuseWorkerContext::Count(current_worker->xattr_requests);
  const FuseTree& tree = TreeOf(req);
  // Unlike getxattr, not ENOSYS: programs that copy files treat "not supported" as a failure.
  if (!tree.index().has_xattrs()) return ReplyXattr(req, "", size);
  auto xattrs = tree.index().Xattrs(ToNid(tree, node));
  if (!xattrs.ok()) return ReplyStatus(req, xattrs.status());
  std::string names;
  std::optional<bool> trusted;
  if (tree.overlay_form) trusted = true;  // overlayfs asks on behalf of any process
  for (const Xattr& xattr : *xattrs) {
    if (IsHidden(tree, xattr.name)) continue;
    if (xattr.name.starts_with("trusted.")) {
      if (!trusted) trusted = MayListTrusted(fuse_req_ctx(req)->pid);
      if (!*trusted) continue;
    }
    names.append(xattr.name).push_back('\0');
  }
  ReplyXattr(req, names, size);
}

// The single directory of data files. Its files come and go, so names are not cached.
struct stat DataStat(const DataFiles::File& file) {
  struct stat out = {};
  out.st_ino = file.node;
  out.st_mode = file.layer == nullptr ? S_IFDIR | 0500 : S_IFREG | 0400;
  out.st_nlink = file.layer == nullptr ? 2 : 1;
  out.st_blksize = kBlockSize;
  if (file.layer != nullptr) {
    out.st_size = static_cast<off_t>(file.layer->data_bytes);
    out.st_blocks = out.st_size / 512;
  }
  return out;
}

void DataLookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseWorkerContext::Count(current_worker->lookups);
  if (parent != FUSE_ROOT_ID) return ReplyError(req, ENOTDIR);
  const DataFiles::File file = FilesOf(req).Lookup(name);
  if (file.layer == nullptr) return ReplyError(req, ENOENT);
  fuse_entry_param entry = {};
  entry.ino = file.node;
  entry.attr = DataStat(file);
  entry.attr_timeout = kForever;
  fuse_reply_entry(req, &entry);
}

void DataForget(fuse_req_t req, fuse_ino_t node, uint64_t) {
  FilesOf(req).Forget(node);
  fuse_reply_none(req);
}

void DataGetAttr(fuse_req_t req, fuse_ino_t node, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->getattrs);
  DataFiles::File file{FUSE_ROOT_ID, nullptr};
  if (node != FUSE_ROOT_ID) {
    file = FilesOf(req).Find(node);
    if (file.layer == nullptr) return ReplyError(req, ESTALE);
  }
  const struct stat attributes = DataStat(file);
  fuse_reply_attr(req, &attributes, kForever);
}

void DataRead(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->reads);
  const LayerRef layer = FilesOf(req).Find(node).layer;
  if (layer == nullptr) return ReplyError(req, ESTALE);
  const uint64_t begin = static_cast<uint64_t>(offset);
  if (offset < 0 || begin >= layer->data_bytes) {
    fuse_reply_buf(req, nullptr, 0);
    return;
  }
  const size_t part =
      std::min<uint64_t>(std::min<uint64_t>(size, kFuseReplyBytes), layer->data_bytes - begin);
  FuseWorkerContext::Count(current_worker->read_bytes, part);
  const auto fill = [layer, begin](absl::Span<char> out, absl::Span<const ReadPin> pins) {
    return ReadLayer(*layer, begin, out, pins);
  };
  if (!layer->readable()) {
    return std::make_shared<PendingRead>(req, part, fill)
        ->Start({{layer, ByteRange{begin, begin + part}}});
  }
  char* buffer = current_worker->reply.get();
  if (const absl::Status status = fill({buffer, part}, {}); !status.ok()) {
    LogError("read_failed error=", status.message());
    return ReplyError(req, EIO);
  }
  fuse_reply_buf(req, buffer, part);
}

void DataReadDir(fuse_req_t req, fuse_ino_t node, size_t size, off_t position, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->readdirs);
  if (node != FUSE_ROOT_ID) return ReplyError(req, ENOTDIR);
  char* buffer = current_worker->reply.get();
  const size_t room = std::min(size, kFuseReplyBytes);
  size_t used = 0;
  for (const DataFiles::File& file : FilesOf(req).List(static_cast<uint64_t>(position))) {
    const struct stat attributes = DataStat(file);
    const size_t needed =
        fuse_add_direntry(req, buffer + used, room - used, file.layer->id.hex().c_str(),
                          &attributes, static_cast<off_t>(file.node));
    if (needed > room - used) break;
    used += needed;
  }
  fuse_reply_buf(req, buffer, used);
}

void DataStatFs(fuse_req_t req, fuse_ino_t) {
  struct statvfs answer = {};
  answer.f_bsize = kBlockSize;
  answer.f_frsize = kBlockSize;
  answer.f_namemax = kNameMax;
  answer.f_flag = ST_RDONLY;
  fuse_reply_statfs(req, &answer);
}

FuseLayers& LayersOf(fuse_req_t req) { return static_cast<FuseLayers&>(ServedOf(req)); }

// For the additional layer store. Replies are not cached, because they may change. Only root may
// look up a layer, because the daemon then fetches it with its own credentials.
struct stat LayerStat(uint64_t number, const LayerNodes::Node& node) {
  using Kind = LayerNodes::Kind;
  struct stat out = {};
  out.st_ino = number;
  out.st_mode = S_IFDIR | 0700;
  out.st_nlink = 2;
  out.st_blksize = kBlockSize;
  if (node.kind < Kind::kTree) return out;
  out.st_nlink = 1;
  out.st_mode = node.kind == Kind::kTree ? S_IFLNK | 0777 : S_IFREG | 0444;
  const LayerDirectory::Layer& layer = *node.content;
  const uint64_t size = node.kind == Kind::kTree   ? layer.tree.size()
                        : node.kind == Kind::kInfo ? layer.info.size()
                                                   : layer.blob_bytes;
  out.st_size = static_cast<off_t>(size);
  out.st_blocks = static_cast<blkcnt_t>((size + 511) / 512);
  return out;
}

void ReplyLayerNode(fuse_req_t req, FuseLayers& layers, const LayerNodes::Node& node) {
  fuse_entry_param entry = {};
  entry.ino = layers.nodes.Enter(node);
  entry.attr = LayerStat(entry.ino, node);
  // If the requester is gone, the kernel does not get the node.
  if (fuse_reply_entry(req, &entry) == -ENOENT) layers.nodes.Forget(entry.ino, 1);
}

// A lookup of a layer, which may have to be fetched first. Lives until it is answered.
class PendingLayer : public std::enable_shared_from_this<PendingLayer> {
 public:
  PendingLayer(fuse_req_t req, FuseLayers& layers, LayerNodes::Node node)
      : session_(current_worker->session), req_(req), layers_(layers), node_(std::move(node)) {}

  void Start() {
    fuse_req_interrupt_func(req_, &PendingLayer::Interrupt, this);
    const FlightTicket ticket = layers_.directory->Find(
        node_.reference, node_.layer,
        [self = shared_from_this()](auto layer) { self->Arrived(std::move(layer)); });
    {
      absl::MutexLock lock(&mu_);
      ticket_ = ticket;
      if (!interrupted_) return;
    }
    ticket.Leave();
  }

 private:
  // libfuse holds the request's lock during this call, so the object is alive.
  static void Interrupt(fuse_req_t, void* data) {
    const auto self = static_cast<PendingLayer*>(data)->shared_from_this();
    FlightTicket ticket;
    {
      absl::MutexLock lock(&self->mu_);
      self->interrupted_ = true;
      ticket = self->ticket_;
    }
    interrupting_ = self.get();
    ticket.Leave();
    interrupting_ = nullptr;
  }

  void Arrived(absl::StatusOr<std::shared_ptr<const LayerDirectory::Layer>> layer) {
    // Returns once no further interrupt can arrive. Skipped within an interrupt, which excludes
    // others.
    if (interrupting_ != this) fuse_req_interrupt_func(req_, nullptr, nullptr);
    if (!layer.ok()) {
      absl::MutexLock lock(&mu_);
      fuse_reply_err(req_, interrupted_ ? EINTR : ENOENT);
      return;
    }
    node_.content = *std::move(layer);
    ReplyLayerNode(req_, layers_, node_);
  }

  static thread_local const PendingLayer* interrupting_;

  const std::shared_ptr<void> session_;
  const fuse_req_t req_;
  FuseLayers& layers_;
  LayerNodes::Node node_;
  absl::Mutex mu_;
  FlightTicket ticket_ ABSL_GUARDED_BY(mu_);
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;
};

thread_local const PendingLayer* PendingLayer::interrupting_ = nullptr;

void LayersLookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  using Kind = LayerNodes::Kind;
  FuseWorkerContext::Count(current_worker->lookups);
  FuseLayers& layers = LayersOf(req);
  std::optional<LayerNodes::Node> node = layers.nodes.Find(parent);
  if (!node.has_value()) return ReplyError(req, ESTALE);
  const std::string_view wanted(name);
  switch (node->kind) {
    case Kind::kRoot:
      if (!layers.directory->IsReference(wanted)) return ReplyError(req, ENOENT);
      node->kind = Kind::kReference;
      node->reference = wanted;
      return ReplyLayerNode(req, layers, *node);
    case Kind::kReference:
      node->kind = Kind::kLayer;
      node->layer = wanted;
      return std::make_shared<PendingLayer>(req, layers, *std::move(node))->Start();
    case Kind::kLayer:
      if (wanted != "diff" && wanted != "info" && wanted != "blob") return ReplyError(req, ENOENT);
      node->kind = wanted == "diff" ? Kind::kTree : wanted == "info" ? Kind::kInfo : Kind::kBlob;
      return ReplyLayerNode(req, layers, *node);
    default:
      return ReplyError(req, ENOTDIR);
  }
}

void LayersForget(fuse_req_t req, fuse_ino_t number, uint64_t lookups) {
  LayersOf(req).nodes.Forget(number, lookups);
  fuse_reply_none(req);
}

void LayersGetAttr(fuse_req_t req, fuse_ino_t number, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->getattrs);
  const std::optional<LayerNodes::Node> node = LayersOf(req).nodes.Find(number);
  if (!node.has_value()) return ReplyError(req, ESTALE);
  const struct stat attributes = LayerStat(number, *node);
  fuse_reply_attr(req, &attributes, 0);
}

void LayersReadLink(fuse_req_t req, fuse_ino_t number) {
  const std::optional<LayerNodes::Node> node = LayersOf(req).nodes.Find(number);
  if (!node.has_value() || node->kind != LayerNodes::Kind::kTree) return ReplyError(req, EINVAL);
  fuse_reply_readlink(req, node->content->tree.c_str());
}

void LayersRead(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->reads);
  const std::optional<LayerNodes::Node> node = LayersOf(req).nodes.Find(number);
  // Blobs are not stored.
  if (!node.has_value() || node->kind != LayerNodes::Kind::kInfo) return ReplyError(req, EIO);
  const std::string& info = node->content->info;
  const size_t begin = std::min<uint64_t>(static_cast<uint64_t>(offset), info.size());
  fuse_reply_buf(req, info.data() + begin, std::min(size, info.size() - begin));
}

void LayersReadDir(fuse_req_t req, fuse_ino_t, size_t, off_t, fuse_file_info*) {
  FuseWorkerContext::Count(current_worker->readdirs);
  fuse_reply_buf(req, nullptr, 0);  // a directory's content is known only by name
}

// Podman reports a user by opening a file that never exists, and the end of its use by removing the
// layer, which nevertheless stays.
void LayersCreate(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t, fuse_file_info*) {
  FuseLayers& layers = LayersOf(req);
  const std::optional<LayerNodes::Node> node = layers.nodes.Find(parent);
  const bool use =
      node.has_value() && node->kind == LayerNodes::Kind::kLayer && std::string_view(name) == "use";
  if (!use) return ReplyError(req, EROFS);
  layers.directory->Use(node->reference, node->layer,
                        [req, session = current_worker->session] { fuse_reply_err(req, ENOENT); });
}

void LayersRmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  FuseLayers& layers = LayersOf(req);
  const std::optional<LayerNodes::Node> node = layers.nodes.Find(parent);
  const bool layer = node.has_value() && node->kind == LayerNodes::Kind::kReference;
  if (!layer) return ReplyError(req, EROFS);
  layers.directory->Release(node->reference, name, [req, session = current_worker->session] {
    fuse_reply_err(req, ENOENT);
  });
}

// Rejects an operation with one error, whatever its arguments.
template <int kError, typename... Args>
void Refuse(fuse_req_t req, Args...) {
  fuse_reply_err(req, kError);
}

template <int kError, typename... Args>
void RejectWith(void (*&operation)(fuse_req_t, Args...)) {
  operation = &Refuse<kError, Args...>;
}

// What all kinds of sessions reject.
fuse_lowlevel_ops BaseOperations() {
  fuse_lowlevel_ops ops = {};
  ops.init = Init;
  // After ENOSYS the kernel handles open, flush and close itself and keeps its caches across opens.
  RejectWith<ENOSYS>(ops.open);
  RejectWith<ENOSYS>(ops.opendir);
  RejectWith<ENOSYS>(ops.flush);
  // The mount is read-only, so these arrive only if the kernel did not check that.
  RejectWith<EROFS>(ops.setattr);
  RejectWith<EROFS>(ops.mknod);
  RejectWith<EROFS>(ops.mkdir);
  RejectWith<EROFS>(ops.unlink);
  RejectWith<EROFS>(ops.rmdir);
  RejectWith<EROFS>(ops.symlink);
  RejectWith<EROFS>(ops.rename);
  RejectWith<EROFS>(ops.link);
  RejectWith<EROFS>(ops.write);
  RejectWith<EROFS>(ops.create);
  RejectWith<EROFS>(ops.setxattr);
  RejectWith<EROFS>(ops.removexattr);
  RejectWith<EROFS>(ops.fallocate);
  RejectWith<EROFS>(ops.copy_file_range);
  return ops;
}

fuse_lowlevel_ops MakeTreeOperations() {
  fuse_lowlevel_ops ops = BaseOperations();
  ops.lookup = Lookup;
  ops.getattr = GetAttr;
  ops.readlink = ReadLink;
  ops.read = Read;
  ops.readdir = ReadDir;
  ops.readdirplus = ReadDirPlus;
  ops.statfs = StatFs;
  ops.getxattr = GetXattr;
  ops.listxattr = ListXattr;
  return ops;
}

fuse_lowlevel_ops MakeDataOperations() {
  fuse_lowlevel_ops ops = BaseOperations();
  ops.lookup = DataLookup;
  ops.forget = DataForget;
  ops.getattr = DataGetAttr;
  ops.read = DataRead;
  ops.readdir = DataReadDir;
  ops.statfs = DataStatFs;
  RejectWith<ENOSYS>(ops.getxattr);
  RejectWith<ENOSYS>(ops.listxattr);
  return ops;
}

fuse_lowlevel_ops MakeLayersOperations() {
  fuse_lowlevel_ops ops = BaseOperations();
  ops.lookup = LayersLookup;
  ops.forget = LayersForget;
  ops.getattr = LayersGetAttr;
  ops.readlink = LayersReadLink;
  ops.read = LayersRead;
  ops.readdir = LayersReadDir;
  ops.readdirplus = LayersReadDir;
  ops.create = LayersCreate;
  ops.rmdir = LayersRmdir;
  ops.statfs = DataStatFs;
  RejectWith<ENOSYS>(ops.getxattr);
  RejectWith<ENOSYS>(ops.listxattr);
  return ops;
}

}  // namespace

void FuseWorkerContext::AddTo(FuseCounters& sum) const {
  const auto get = [](const std::atomic<uint64_t>& c) { return c.load(std::memory_order_relaxed); };
  sum.requests += get(requests);
  sum.lookups += get(lookups);
  sum.getattrs += get(getattrs);
  sum.reads += get(reads);
  sum.read_bytes += get(read_bytes);
  sum.readdirs += get(readdirs);
  sum.xattr_requests += get(xattr_requests);
  sum.errors += get(errors);
}

const fuse_lowlevel_ops& FuseLayersOperations() {
  static const fuse_lowlevel_ops operations = MakeLayersOperations();
  return operations;
}

void SetFuseWorkerContext(FuseWorkerContext* context) { current_worker = context; }

const fuse_lowlevel_ops& FuseTreeOperations() {
  static const fuse_lowlevel_ops operations = MakeTreeOperations();
  return operations;
}

const fuse_lowlevel_ops& FuseDataOperations() {
  static const fuse_lowlevel_ops operations = MakeDataOperations();
  return operations;
}

}  // namespace imagefs
