// SPDX-License-Identifier: Apache-2.0
#include "cmd/status_page.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/digest.h"
#include "base/text.h"
#include "base/units.h"
#include "cmd/print.h"
#include "cmd/print_parts.h"
#include "cmd/status_page_text.h"
#include "proto/control.pb.h"

namespace imagefs {

using namespace control::v1;  // NOLINT: the messages that are shown

namespace {

// Of one table: a browser takes about a second for ten times as many.
constexpr int kMostRows = 5000;

std::string HashOf(std::string_view text) {
  const Digest digest = Sha256Of(text);
  return StrCat("'sha256-", absl::Base64Escape(absl::HexStringToBytes(digest.hex())), "'");
}

// What an element may say, too.
const std::string& ElementPolicy() {
  static const std::string policy =
      StrCat("default-src 'none'; script-src ", HashOf(kOverviewScript), " ", HashOf(kMountScript),
             "; style-src ", HashOf(kStatusStyle), "; base-uri 'none'; form-action 'none'");
  return policy;
}

// A word of the daemon's, as text that stays on its line.
std::string Text(std::string_view text) { return EscapeHtml(PrintableName(text, 1000)); }

// A name that the image, the registry or a user chose.
std::string Name(std::string_view name) {
  return StrCat("<bdi>", EscapeHtml(PrintableName(name, 400)), "</bdi>");
}

std::string Head(std::string_view title) {
  return StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"",
      EscapeHtml(ElementPolicy()),
      "\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"referrer\" content=\"no-referrer\">\n<title>",
      Text(title), "</title>\n<style>", kStatusStyle, "</style></head><body>\n");
}

std::string Bytes(uint64_t bytes) { return Text(FormatBytes(bytes)); }

// A cell per column; `number` marks those that are aligned to the right.
struct Column {
  std::string_view name;
  bool number = false;
  bool wide = false;
};

class HtmlTable {
 public:
  HtmlTable(std::string_view caption, std::vector<Column> columns) : columns_(std::move(columns)) {
    StrAppend(&out_, "<div class=\"scroll\"><table><caption>", caption, "</caption><thead><tr>");
    for (const Column& column : columns_) {
      StrAppend(&out_, "<th scope=\"col\"", ClassOf(column), ">", column.name, "</th>");
    }
    out_ += "</tr></thead><tbody>\n";
  }
  // `cells` are HTML.
  void Row(const std::vector<std::string>& cells) {
    if (++rows_ > kMostRows) return;
    out_ += "<tr>";
    for (size_t i = 0; i < cells.size(); ++i) {
      StrAppend(&out_, "<td", ClassOf(columns_[i]), ">", cells[i], "</td>");
    }
    out_ += "</tr>\n";
  }
  std::string Take() {
    out_ += "</tbody></table></div>\n";
    if (rows_ > kMostRows) StrAppend(&out_, "<p>and ", rows_ - kMostRows, " more</p>\n");
    return std::move(out_);
  }

 private:
  static std::string_view ClassOf(const Column& column) {
    return column.number ? " class=\"num\"" : column.wide ? " class=\"wide\"" : "";
  }

  const std::vector<Column> columns_;
  std::string out_;
  int rows_ = 0;
};

std::string Code(const std::string& digest) {
  return digest.empty() ? "-" : StrCat("<code>", Text(ShortDigest(digest)), "</code>");
}

std::string StateHtml(const Mount& mount) {
  if (mount.state() == "filling") return StrCat("filling ", mount.filled_percent(), "%");
  if (mount.reason().empty()) return Text(mount.state());
  return StrCat("<span class=\"bad\">", Text(mount.state()), "</span>: ", Text(mount.reason()));
}

// Not for long lists: browsers take longer for a thousand of these than for all else on a page.
std::string FilledBar(const Mount& mount) {
  if (mount.state() != "filling") return "";
  return StrCat(" <progress max=\"100\" value=\"", mount.filled_percent(),
                "\" aria-hidden=\"true\"></progress>");
}

// The directory as the value of a query.
std::string QueryOf(const std::string& directory) {
  std::string out;
  for (const unsigned char c : directory) {
    const bool plain = absl::ascii_isalnum(c) || c == '/' || c == '-' || c == '.' || c == '_';
    out += plain ? std::string(1, static_cast<char>(c)) : absl::StrFormat("%%%02X", c);
  }
  return out;
}

std::string MountsTable(const ListMountsReply& mounts) {
  HtmlTable table(
      "Directories, and what is shown there",
      {{"directory", false, true}, {"image", false, true}, {"mode"}, {"state", false, true}});
  for (const Mount& mount : mounts.mounts()) {
    table.Row(
        {StrCat(
             "<a href=\"mount?directory=", QueryOf(mount.directory()),
             mount.mount_namespace() == 0 ? "" : StrCat("&amp;namespace=", mount.mount_namespace()),
             "\">", Name(mount.directory()), "</a>"),
         Name(mount.reference()), Text(StrCat(mount.mode(), mount.writable() ? ", writable" : "")),
         StateHtml(mount)});
  }
  return table.Take();
}

std::string ImagesTable(const ListImagesReply& images) {
  HtmlTable table("Listed, or held by a runtime", {{"image", false, true},
                                                   {"platform"},
                                                   {"manifest"},
                                                   {"state"},
                                                   {"layers", true},
                                                   {"compressed", true},
                                                   {"on disk", true},
                                                   {"used by", false, true}});
  for (const Image& image : images.images()) {
    const std::string users = UsersOf(image, [](const ImageUser& user) {
      return StrCat(Text(user.kind()), " ", Name(user.name()));
    });
    table.Row({Name(image.reference()), Text(image.platform()), Code(image.manifest_digest()),
               StrCat(Text(image.state()), image.pinned() ? ", pinned" : ""),
               StrCat(image.layers()), Bytes(image.compressed_bytes()), Bytes(image.disk_bytes()),
               users});
  }
  return table.Take();
}

std::string LayersTable(const StatusReply& status) {
  HtmlTable table("Uncompressed data, and the index",
                  {{"layer"}, {"state"}, {"source"}, {"data", true}, {"index", true}});
  for (const StatusReply::Layer& layer : status.layers()) {
    table.Row({Code(layer.diff_id()), Text(layer.state()), Text(layer.source()),
               Bytes(layer.data_bytes()), Bytes(layer.index_bytes())});
  }
  return table.Take();
}

constexpr std::array<std::string_view, 4> kStates = {"absent", "needed", "prefetched", "fetched"};

std::string Legend(const std::vector<std::pair<std::string_view, std::string_view>>& entries) {
  std::string out = "<ul class=\"legend\">";
  for (const auto& [fill, text] : entries) {
    StrAppend(&out, "<li><canvas data-fill=\"", fill, "\" aria-hidden=\"true\"></canvas>", text,
              "</li>");
  }
  return out + "</ul>\n";
}

// Says what is under the pointer or selected. Before the picture and sticky, so that it is in view
// and covers nothing.
std::string SaidBox(std::string_view id) {
  return StrCat("<p class=\"said\" id=\"", id, "\" role=\"status\">Nothing is selected.</p>\n");
}

// What was requested of each layer: the byte map as numbers.
std::string LayerTable(const MountStatusReply& reply) {
  std::vector<Column> columns = {{"#", true}, {"layer"}, {"blob"}, {"state"}, {"size", true}};
  for (const size_t state : {1, 2, 3, 0}) columns.push_back({kStates[state], true});
  columns.push_back({"data", true});
  columns.push_back({"waiting", true});
  HtmlTable table("The layers, bottom first; compressed bytes", columns);
  int number = 0;
  for (const MountStatusReply::Layer& layer : reply.layers()) {
    std::vector<std::string> cells = {StrCat(++number), Code(layer.diff_id()), Code(layer.digest()),
                                      Text(layer.state()), Bytes(layer.blob_bytes())};
    std::array<uint64_t, 4> sums{};
    for (const MountStatusReply::Run& run : layer.runs()) {
      for (int i = 0; i < std::min(run.bytes_size(), 4); ++i) {
        sums[static_cast<size_t>(i)] += run.bytes(i);
      }
    }
    for (const size_t state : {1, 2, 3, 0}) {
      cells.push_back(layer.runs().empty() ? "-" : Bytes(sums[state]));
    }
    cells.push_back(Bytes(layer.data_bytes()));
    cells.push_back(StrCat(layer.waiting()));
    table.Row(cells);
  }
  std::string out = table.Take();
  for (const MountStatusReply::Layer& layer : reply.layers()) {
    if (layer.reason().empty()) continue;
    StrAppend(&out, "<p class=\"bad\">", Code(layer.diff_id()), ": ", Text(layer.reason()),
              "</p>\n");
  }
  return out;
}

std::string Milliseconds(int64_t microseconds) {
  return microseconds < 0 ? "-" : absl::StrFormat("%.1f", static_cast<double>(microseconds) / 1e3);
}

std::string EventTable(const MountStatusReply& reply) {
  HtmlTable table("Times in milliseconds since the start", {{"begin", true},
                                                            {"first byte", true},
                                                            {"end", true},
                                                            {"step"},
                                                            {"layer", true},
                                                            {"from byte", true},
                                                            {"bytes", true},
                                                            {"for"},
                                                            {"what", false, true}});
  for (const MountStatusReply::Event& event : reply.events()) {
    const bool range = event.end() > event.begin();
    table.Row({Milliseconds(event.began_us()), Milliseconds(event.answered_us()),
               event.ended_us() < 0 ? "not ended" : Milliseconds(event.ended_us()),
               StrCat(Text(event.step()), event.failed() ? ", failed" : "",
                      event.hedge() ? ", second request" : ""),
               event.layer() == 0 ? "-" : StrCat(event.layer()),
               range ? StrCat(event.begin()) : "-",
               range ? StrCat(event.end() - event.begin()) : "-",
               event.priority().empty() ? "-" : Text(event.priority()),
               event.detail().empty() ? "-" : Name(event.detail())});
  }
  return table.Take();
}

std::string MapSection(const MountStatusReply& reply) {
  const bool mapped = std::any_of(reply.layers().begin(), reply.layers().end(),
                                  [](const auto& layer) { return layer.runs_size() > 0; });
  std::string out = "<section><h2>Byte map</h2>\n";
  if (mapped) {
    StrAppend(
        &out,
        "<p>Each bar is the compressed blob of a layer, from its first byte to its last. Point at "
        "a "
        "part, or select a bar with Tab and move with the arrow keys (up and down: to the next "
        "part of another kind), to see its bytes and files. "
        "Where a part has bytes of several kinds, its height is divided among them.</p>\n",
        Legend({{"needed", "needed: a reader asked for it"},
                {"prefetched", "prefetched: it came before anybody asked"},
                {"fetched", "fetched: to complete the layer, or by an earlier daemon"},
                {"absent", "absent"}}),
        SaidBox("map-said"), "<div id=\"maps\"></div>\n");
  } else {
    out +=
        "<p>No layer was lazy since the daemon started: all bytes were local when they were "
        "read.</p>\n";
  }
  return StrCat(out, LayerTable(reply), "</section>\n");
}

std::string StartSection(const MountStatusReply& reply) {
  std::string out = "<section><h2>Cold start</h2>\n";
  if (reply.events().empty()) {
    return out +
           "<p>Nothing is recorded: the image was complete when it was mounted, or another daemon "
           "started it.</p></section>\n";
  }
  StrAppend(
      &out, "<p>Began at ",
      absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixMillis(reply.events_began_unix_ms()),
                       absl::UTCTimeZone()),
      ". A thin line is a request that has no answer yet; a cross is a failure. Point, or use "
      "Tab and the arrow keys.");
  if (reply.events_dropped() > 0) {
    StrAppend(&out, " ", Plural(reply.events_dropped(), "further event"), " not kept.");
  }
  StrAppend(&out, "</p>\n",
            Legend({{"step", "a step of the start"},
                    {"wait", "a read that waited"},
                    {"needed", "a request for a reader"},
                    {"prefetched", "a request for the profile, or ahead of a reader"},
                    {"fetched", "a request to complete the layer"}}),
            "<p hidden><label>Show <select id=\"zoom\"></select></label></p>\n",
            SaidBox("waterfall-said"), "<div id=\"waterfall\"></div>\n<details><summary>",
            Plural(static_cast<uint64_t>(reply.events_size()), "event"), " as a table</summary>\n",
            EventTable(reply), "</details></section>\n");
  return out;
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string EscapeJsonForHtml(std::string_view json) {
  std::string out;
  out.reserve(json.size() + json.size() / 16);
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string_view rest = json.substr(i);
    if (rest[0] == '<' || rest[0] == '>' || rest[0] == '&') {
      out += absl::StrFormat("\\u%04x", rest[0]);
    } else if (rest.starts_with("\xe2\x80\xa8") || rest.starts_with("\xe2\x80\xa9")) {
      out += rest[2] == '\xa8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      out += rest[0];
    }
  }
  return out;
}

std::string PagePolicy() { return StrCat(ElementPolicy(), "; frame-ancestors 'none'"); }

std::string OverviewPage(const StatusReply& status, const ListMountsReply& mounts,
                         const ListImagesReply& images) {
  std::string out = StrCat(Head("imagefs"), "<header><h1>imagefs</h1><p class=\"dim\">version ",
                           Text(status.version()), ", store ", Name(status.root()), ": ",
                           Plural(static_cast<uint64_t>(mounts.mounts_size()), "mount"), ", ",
                           Plural(static_cast<uint64_t>(images.images_size()), "image"), ", ",
                           Plural(static_cast<uint64_t>(status.layers_size()), "layer"), "</p>\n");
  for (const std::string& warning : status.warnings()) {
    StrAppend(&out, "<p class=\"bad\">", Text(warning), "</p>\n");
  }
  StrAppend(&out,
            "<p hidden><label>Show rows with <input type=\"search\" id=\"filter\" "
            "autocomplete=\"off\"></label> <span id=\"count\" role=\"status\" "
            "class=\"dim\"></span></p></header>\n<main><section><h2>Mounts</h2>\n",
            MountsTable(mounts), "</section>\n<section><h2>Images</h2>\n", ImagesTable(images),
            "</section>\n<section><h2>Layers</h2>\n", LayersTable(status),
            "</section></main>\n<script>", kOverviewScript, "</script></body></html>\n");
  return out;
}

std::string MountPage(const MountStatusReply& reply, bool served) {
  const Mount& mount = reply.mount();
  return StrCat(Head(StrCat(mount.reference(), " - imagefs")), "<header>",
                served ? "<nav><a href=\"./\">All mounts</a></nav>" : "", "<h1>",
                Name(mount.reference()), "</h1>\n<dl><dt>directory</dt><dd>",
                Name(mount.directory()), "</dd><dt>manifest</dt><dd><code>",
                Text(mount.manifest_digest()), "</code></dd><dt>mode</dt><dd>", Text(mount.mode()),
                mount.writable() ? ", writable" : "", "</dd><dt>state</dt><dd>", StateHtml(mount),
                FilledBar(mount), "</dd></dl></header>\n<main>", MapSection(reply),
                StartSection(reply), "</main>\n<script type=\"application/json\" id=\"data\">",
                EscapeJsonForHtml(MountStatusJson(reply, /*pretty=*/false)), "</script>\n<script>",
                kMountScript, "</script></body></html>\n");
}

}  // namespace imagefs
