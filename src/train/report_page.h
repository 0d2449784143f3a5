// The page that report_html() fills: style and script, with marks where text goes.
#pragma once

namespace linnet::train {

extern const char* const kReportPage;  // marks: {{title}} (twice), {{subtitle}}, {{summary}}, {{data}}

}  // namespace linnet::train
